"""The files that can be imported: the old program's SQLite file, Parquet, CSV, NDJSON and JSON."""

import codecs
import csv
import io
import json
import re
import sqlite3
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, cast

import msgspec

from iot_models.json_dialect import decode
from iot_models.text_files import is_unicode

from .import_format import READ_ERRORS, ImportFileError, check_columns, format_of, opened
from .import_row import (
    ImportRow,
    OtherPasswordError,
    RowError,
    canonical_json,
    make_row,
    row_of_csv,
    row_of_json,
    same_password,
    short_integer,
)
from .legacy_cipher import LegacyCipher
from .parquet_source import ParquetFile

_PAGE = (
    "SELECT absolute_timestamp, relative_timestamp, interrogator_timestamp, freeform, id"
    " FROM IOTD WHERE id > ? ORDER BY id LIMIT 100"
)
_CURSOR_LINE = re.compile(rb'\s*\{\s*"cursor"\s*:\s*(null|"[^"]*")\s*\}\s*')
"""The last line of a page in NDJSON."""


class Source(Protocol):
    """A file to import. It can be read several times, with the rows in the same order."""

    more_pages: bool
    """Whether the last cursor in the file says that another page of the answer follows. False until
    all rows are read."""

    def count(self) -> int | None:
        """Return the number of rows; None if it is not known before all rows are read."""

    def rows(self) -> Iterator[ImportRow | RowError]:
        """Yield each row of the file; for a row that is not a reading, yield a `RowError`.

        Raises:
            ImportFileError: the file can't be read.
        """


def open_source(path: Path, form: str | None, password: str) -> Source:
    """Open a file in the format `form`, or in the format that its first bytes show.

    Raises:
        ImportFileError: the file can't be read, is empty or a pipe, its format is unknown, or it
            has to be unpacked first.
    """
    form = format_of(path, form)
    if form == "parquet":
        return ParquetFile(path, password)
    if form == "sqlite":
        return LegacySqlite(path, password)
    if form == "csv":
        return CsvFile(path, password)
    if form == "ndjson":
        return NdjsonFile(path, password)
    return JsonFile(path, password)


class LegacySqlite:
    """The old program's database, with the rows in the order in which they were stored.

    It can be imported while the old program uses it: the file is opened read-only, and read in
    pages, because the old program could not commit during one long read.
    """

    more_pages = False

    def __init__(self, path: Path, password: str) -> None:
        self._path = path
        self._cipher = LegacyCipher(password)

    def count(self) -> int | None:
        """Return the number of rows."""
        with closing(self._open()) as database:
            ((rows,),) = self._query(database, "SELECT count(*) FROM IOTD")
            return cast("int", rows)

    def rows(self) -> Iterator[ImportRow | RowError]:
        """Yield the rows, decrypted."""
        last = -(2**63)
        with closing(self._open()) as database:
            while page := self._query(database, _PAGE, (last,)):
                for *values, last in page:  # noqa: B007 -- the last id, for the next page
                    yield self._row(*values)

    def _open(self) -> sqlite3.Connection:
        try:
            database = sqlite3.connect(f"{self._path.resolve().as_uri()}?mode=ro", uri=True)
        except sqlite3.Error as error:
            raise self._unreadable(error) from None
        # A damaged text makes its row invalid. By default, it would end the import.
        database.text_factory = lambda text: text.decode(errors="replace")
        return database

    def _query(
        self, database: sqlite3.Connection, statement: str, values: Sequence[int] = ()
    ) -> list[Any]:
        try:
            return database.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            raise self._unreadable(error) from None

    def _unreadable(self, error: sqlite3.Error) -> ImportFileError:
        return ImportFileError(
            f"{self._path} can't be read as a database of the old program: {error}"
        )

    def _row(
        self, received: object, relative: object, interrogator: object, stored: object
    ) -> ImportRow | RowError:
        if not isinstance(stored, bytes | str):
            return RowError("freeform is missing")
        if not isinstance(interrogator, int):
            return RowError("interrogator_timestamp is not a number")
        try:
            text = (self._cipher.decrypt(stored, interrogator) or b"").decode()
            canonical_json(text)
        except (ValueError, RecursionError):
            return OtherPasswordError("is under another password, or damaged")
        try:
            return make_row(received, relative, interrogator, text)
        except RowError as error:
            return error


class _TextFile:
    """A text file with readings that are not encrypted. It may be compressed with gzip."""

    more_pages = False

    def __init__(self, path: Path, password: str) -> None:
        self._path = path
        self._password = password

    def count(self) -> int | None:
        """Return None: the number is not known before all rows are read."""
        return None


class CsvFile(_TextFile):
    """A CSV file of the old program's exporters or of `iot-sensor export`."""

    def rows(self) -> Iterator[ImportRow | RowError]:
        """Yield the rows."""
        csv.field_size_limit(sys.maxsize)
        try:
            # Bytes that are not UTF-8 become surrogates, which UTF-8 can't encode.
            with io.TextIOWrapper(
                opened(self._path), encoding="utf-8-sig", errors="surrogateescape", newline=""
            ) as file:
                # Without `strict`, an unclosed quote takes the rest of the file as one field.
                reader = csv.reader(file, strict=True)
                names = self._names(reader)
                for fields in _csv_rows(reader):
                    if isinstance(fields, RowError):
                        yield fields
                    elif fields:  # no empty line
                        yield self._row(names, fields)
        except READ_ERRORS as error:
            raise ImportFileError(f"{self._path}: {error}") from None

    def _names(self, reader: Iterator[list[str]]) -> list[str]:
        try:
            names = next(reader, [])
        except csv.Error as error:
            raise ImportFileError(f"{self._path}: the first line is not CSV: {error}") from None
        if not is_unicode("".join(names)):
            raise ImportFileError(f"{self._path}: the first line is not UTF-8")
        check_columns(self._path, "the first line", names)
        return names

    def _row(self, names: list[str], fields: list[str]) -> ImportRow | RowError:
        if not is_unicode("".join(fields)):
            return RowError("is not UTF-8")
        if len(fields) > len(names):
            return RowError("has more fields than the first line")
        if len(fields) < len(names):
            return RowError("has fewer fields than the first line")
        row = dict(zip(names, fields, strict=True))
        if (given := row.get("db_password")) and not same_password(given, self._password):
            return OtherPasswordError("is under another password")
        try:
            return row_of_csv(row)
        except RowError as error:
            return error


class _Reader(Iterator[list[str]], Protocol):
    @property
    def line_num(self) -> int: ...


def _csv_rows(reader: _Reader) -> Iterator[list[str] | RowError]:
    """Yield the rows. For a row that is not CSV, yield a `RowError`, and go on after it."""
    while True:
        first = reader.line_num + 1
        try:
            yield next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            lines = f"line {first}"
            if reader.line_num > first:
                lines = f"lines {first} to {reader.line_num}"
            yield RowError(f"is not CSV, or a quote is missing: {lines} of the file: {error}")


class NdjsonFile(_TextFile):
    """A file with one reading per line, as the API returns it or as a PUT sends it. A page of
    an answer ends with a line that has the cursor."""

    def rows(self) -> Iterator[ImportRow | RowError]:
        """Yield the rows."""
        try:
            with opened(self._path) as file:
                for line in file:
                    if (cursor := _CURSOR_LINE.fullmatch(line)) is not None:
                        self.more_pages = cursor[1] != b"null"
                    elif not line.isspace():
                        yield _json_row(line, self._password)
        except READ_ERRORS as error:
            raise ImportFileError(f"{self._path}: {error}") from None


class JsonFile(_TextFile):
    """An answer of the API, `{"data": [...]}`, or a list of readings. It is read into memory."""

    def count(self) -> int | None:
        """Return the number of rows."""
        return len(self._items)

    def rows(self) -> Iterator[ImportRow | RowError]:
        """Yield the rows."""
        for item in self._items:
            yield _json_row(item, self._password)

    @cached_property
    def _items(self) -> list[bytes]:
        """The JSON text of each row."""
        try:
            with opened(self._path) as file:
                content = file.read().removeprefix(codecs.BOM_UTF8)
            try:
                items, self.more_pages = _written_items(content)
            except msgspec.DecodeError:
                # Only now: `decode` refuses the whole file for one row that is not UTF-8.
                decoded = decode(_written_items, content)
                items, self.more_pages = decoded.content
                items = list(map(decoded.restored, items))
        except READ_ERRORS as error:
            raise ImportFileError(f"{self._path}: {error}") from None
        except (msgspec.ValidationError, KeyError):
            problem = 'is neither a JSON list nor {"data": [...]}'
            raise ImportFileError(f"{self._path} {problem}") from None
        except (ValueError, RecursionError) as error:
            raise ImportFileError(
                f"{self._path} is not JSON: {error}; use --format ndjson for an object per line"
            ) from None
        return items


_members = msgspec.json.Decoder(dict[str, msgspec.Raw])
_items = msgspec.json.Decoder(list[msgspec.Raw])


def _written_items(content: bytes) -> tuple[list[bytes], bool]:
    """Return the JSON text of each item of a list, or of the list `data` of an object. Also return
    whether the object has a cursor.

    Raises:
        msgspec.DecodeError: `content` is not in the JSON standard, for example because of NaN.
        msgspec.ValidationError: it has no list.
        KeyError: the object has no member `data`.
    """
    more = False
    if content.lstrip().startswith(b"{"):
        answer = _members.decode(content)
        content, more = answer["data"], bytes(answer.get("cursor", b"null")) != b"null"
    return list(map(bytes, _items.decode(content))), more


def _json_row(text: bytes, password: str) -> ImportRow | RowError:
    try:
        return _checked_row(text, password)
    except UnicodeDecodeError:
        return RowError("is not UTF-8")
    except RowError as error:
        return error
    except (ValueError, RecursionError):
        return RowError("is not JSON")


def _checked_row(text: bytes, password: str) -> ImportRow:
    row = json.loads(text.decode("utf-8-sig"), parse_int=short_integer)
    if not isinstance(row, dict):
        raise RowError("is not an object")
    data = row.get("data", row)
    if isinstance(data, list):
        raise RowError(
            "data is a list, as in a saved answer of the API; import such a file with --format json"
        )
    if not isinstance(data, dict):
        raise RowError("data is not an object")
    given = data.get("db_password")
    if given is not None and not same_password(given, password):
        raise OtherPasswordError("is under another password")
    return row_of_json(data, _written(text))


def _written(row: bytes) -> dict[str, str]:
    """Return the JSON text of each member of a row, exactly as the file has it."""
    decoded = decode(_row_members, row)
    members = decoded.content
    texts = [decoded.restored(text).decode() for text in members.values()]
    if decoded.stand_ins is None:
        return dict(zip(members, texts, strict=True))
    names = decoded.stand_ins.strings(json.dumps(name).encode() for name in members)
    return dict(zip(names, texts, strict=True))


def _row_members(row: bytes) -> dict[str, msgspec.Raw]:
    members = _members.decode(row)
    return _members.decode(members["data"]) if "data" in members else members
