"""Opening a file to import: its format, gzip, and the names of its columns."""

import codecs
import gzip
import re
import zlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, cast

from iot_models.errors import IotError

from .import_row import CSV_NAMES, meant_name

FORMATS = ("sqlite", "csv", "ndjson", "json", "parquet")
READ_ERRORS = (OSError, EOFError, zlib.error)
"""Exceptions that are raised if a file can't be read, or if a gzip file is damaged."""
_GZIP = b"\x1f\x8b"
_REFUSED = {
    b"\x28\xb5\x2f\xfd": "is compressed with zstd: unpack it first",
    b"\xfd7zXZ\0": "is compressed with xz: unpack it first",
    b"BZh": "is compressed with bzip2: unpack it first",
    b"PK\3\4": "is a ZIP archive or a spreadsheet: unpack it, or save it as CSV",
    codecs.BOM_UTF16_LE: "is UTF-16: save it as UTF-8",
    codecs.BOM_UTF16_BE: "is UTF-16: save it as UTF-8",
}
"""Files that can't be imported as they are, by their first bytes."""
_HEAD_BYTES = 64 * 1024
_JSON = re.compile(rb'\s*(\[|\{\s*"data"\s*:\s*\[)')


class ImportFileError(IotError):
    """The file can't be imported."""


def opened(path: Path) -> BinaryIO:
    """Open a file for reading. If it is a gzip file, its decompressed content is read.

    Raises:
        READ_ERRORS: the file can't be read. A read of the returned file may raise them, too.
    """
    return cast("BinaryIO", gzip.open(path)) if _is_gzip(path) else path.open("rb")


def format_of(path: Path, form: str | None) -> str:
    """Return `form`. If it is None, return the format that the first bytes of the file show.

    Raises:
        ImportFileError: the file can't be read, is empty or a pipe, its format is unknown, or it
            has to be unpacked first.
    """
    if path == Path("-") or path.is_fifo():
        raise ImportFileError(
            f"{path}: an import reads its file twice, which a pipe does not allow; write the "
            "readings into a file first"
        )
    try:
        head = _head(path)
        compressed = _is_gzip(path)
    except READ_ERRORS as error:
        raise ImportFileError(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    for begin, problem in _REFUSED.items():
        if head.startswith(begin):
            raise ImportFileError(f"{path} {problem}")
    form = form or _detected(head)
    if form is None:
        names = ", ".join(FORMATS)
        raise ImportFileError(f"{path}: unknown format; name it with --format ({names})")
    if compressed and form in {"sqlite", "parquet"}:
        raise ImportFileError(f"{path} is compressed: unpack it first, for example with gunzip")
    return form


def _head(path: Path) -> bytes:
    with opened(path) as file:
        head = file.read(_HEAD_BYTES)
    if not head.strip() and len(head) < _HEAD_BYTES:
        raise ImportFileError(f"{path}: the file is empty")
    return head


def _is_gzip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(_GZIP)) == _GZIP


def _detected(head: bytes) -> str | None:
    if head.startswith(b"SQLite format 3\0"):
        return "sqlite"
    if head.startswith(b"PAR1"):
        return "parquet"
    text = head.removeprefix(codecs.BOM_UTF8).lstrip()
    first = text.partition(b"\n")[0]
    # A text of a reading may contain NUL. A flattened CSV file may have it even in a name.
    if b"\0" in first and b"absolute_timestamp" not in first:
        return None
    if _JSON.match(text):
        return "json"
    if text.startswith(b"{"):
        return "ndjson"
    return "csv" if b"time" in first else None


def check_columns(path: Path, part: str, names: Sequence[str]) -> None:
    """Check the names of the columns of a CSV or Parquet file.

    Error messages say that `part` of the file, such as "the first line", has the names.

    Raises:
        ImportFileError: a required column is missing, two names mean the same column, or a name is
            not written as it should be (`meant_name`).
    """
    for name in names:
        if (meant := meant_name(name)) not in (None, name):
            raise ImportFileError(
                f"{path}: {part} has the column {name!r}: write {meant!r}, or rename the column"
            )
    if "absolute_timestamp" not in names:
        separated = ": separate the columns by commas" if set(";\t") & set("".join(names)) else ""
        raise ImportFileError(f"{path}: {part} lacks the column absolute_timestamp{separated}")
    columns = Counter(CSV_NAMES.get(name, name) for name in names)
    if twice := [name for name in names if columns[CSV_NAMES.get(name, name)] > 1]:
        raise ImportFileError(
            f"{path}: {part} names a column twice: {', '.join(twice)}; rename or delete one of them"
        )
