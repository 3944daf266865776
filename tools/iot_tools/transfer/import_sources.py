"""The files that can be imported: the old program's SQLite file, CSV and NDJSON."""

import csv
import json
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Protocol, cast

from iot_models.errors import IotError

from .import_row import ImportRow, RowError, make_row, row_of_csv, row_of_json
from .legacy_cipher import LegacyCipher

_SQLITE = b"SQLite format 3\0"
_HEAD_BYTES = 64 * 1024
FORMATS = ("sqlite", "csv", "ndjson")


class OtherPasswordError(RowError):
    """The row is encrypted under another password, or is damaged."""


class ImportFileError(IotError):
    """The file can't be imported."""


class Source(Protocol):
    """A file to import. It can be read several times, with the rows in the same order."""

    def count(self) -> int | None:
        """Return the number of rows, None if it takes reading them all."""

    def rows(self) -> Iterator[ImportRow | RowError]:
        """Yield each row, or why it is not a reading. Raises `ImportFileError`."""


def open_source(path: Path, form: str | None, password: str) -> Source:
    """Return a file of a given form, or of the form that it has.

    Raises:
        ImportFileError: the file can't be read, or its form is not known.
    """
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError as error:
        raise ImportFileError(f"{path}: {error.strerror}") from None
    if form is None:
        form = _form_of(head)
    if form == "sqlite":
        return LegacySqlite(path, password)
    if form == "csv":
        return CsvFile(path)
    if form == "ndjson":
        return NdjsonFile(path)
    raise ImportFileError(f"{path}: is neither SQLite, CSV nor NDJSON; use --format if it is")


def _form_of(head: bytes) -> str | None:
    if head.startswith(_SQLITE):
        return "sqlite"
    if head.lstrip()[:1] == b"{":
        return "ndjson"
    return "csv" if b"_timestamp" in head.partition(b"\n")[0] or b"time" in head else None


class LegacySqlite:
    """The old program's database, with the rows in the order of receipt.

    The old program may still run: the file is only read, a row at a time.
    """

    def __init__(self, path: Path, password: str) -> None:
        self._path = path
        self._cipher = LegacyCipher(password)

    def count(self) -> int | None:
        """Return the number of rows."""
        with closing(self._open()) as database:
            (rows,) = self._query(database, "SELECT count(*) FROM IOTD").fetchone()
            return cast("int", rows)

    def rows(self) -> Iterator[ImportRow | RowError]:
        """Yield the rows, decrypted."""
        with closing(self._open()) as database:
            cursor = self._query(
                database,
                "SELECT absolute_timestamp, relative_timestamp, interrogator_timestamp, freeform"
                " FROM IOTD ORDER BY id",
            )
            try:
                for row in cursor:
                    yield self._row(*row)
            except sqlite3.Error as error:
                raise ImportFileError(f"{self._path}: {error}") from None

    def _open(self) -> sqlite3.Connection:
        return sqlite3.connect(f"{self._path.resolve().as_uri()}?mode=ro", uri=True)

    def _query(self, database: sqlite3.Connection, statement: str) -> sqlite3.Cursor:
        try:
            return database.execute(statement)
        except sqlite3.Error as error:
            raise ImportFileError(
                f"{self._path}: is not a database of the old program: {error}"
            ) from None

    def _row(
        self, received: object, relative: object, interrogator: object, stored: object
    ) -> ImportRow | RowError:
        if not isinstance(stored, bytes | str):
            return RowError("freeform is missing")
        if not isinstance(interrogator, int):
            return RowError("interrogator_timestamp is not a number")
        try:
            text = (self._cipher.decrypt(stored, interrogator) or b"").decode()
            json.loads(text)
        except (ValueError, RecursionError):
            return OtherPasswordError("is under another password, or damaged")
        try:
            return make_row(received, relative, interrogator, text)
        except RowError as error:
            return error


class CsvFile:
    """A CSV file of the old program's exporters or of `iot-sensor export`."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def count(self) -> int | None:
        """Return None: rows may span lines."""
        return None

    def rows(self) -> Iterator[ImportRow | RowError]:
        """Yield the rows."""
        csv.field_size_limit(sys.maxsize)
        try:
            with self._path.open(encoding="utf-8-sig", newline="") as file:
                reader = csv.DictReader(file)
                names = set(reader.fieldnames or ())
                if not {"absolute_timestamp"} <= names:
                    raise ImportFileError(
                        f"{self._path}: the first line of a CSV file names its columns, and "
                        "absolute_timestamp is not among them"
                    )
                for fields in reader:
                    yield _checked_csv(fields)
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise ImportFileError(f"{self._path}: {error}") from None


def _checked_csv(fields: dict[str | None, str | None]) -> ImportRow | RowError:
    if None in fields:
        return RowError("has more fields than the first line")
    try:
        return row_of_csv({str(name): text or "" for name, text in fields.items()})
    except RowError as error:
        return error


class NdjsonFile:
    """A file with one JSON object a line: readings as the API returns them, or rows of a PUT."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def count(self) -> int | None:
        """Return None: it takes reading the file."""
        return None

    def rows(self) -> Iterator[ImportRow | RowError]:
        """Yield the rows."""
        try:
            with self._path.open("rb") as file:
                for line in file:
                    if not line.isspace():
                        yield _checked_json(line)
        except OSError as error:
            raise ImportFileError(f"{self._path}: {error}") from None


def _checked_json(line: bytes) -> ImportRow | RowError:
    try:
        fields = json.loads(line)
        if not isinstance(fields, dict):
            return RowError("is not an object")
        return row_of_json(fields)
    except RowError as error:
        return error
    except (ValueError, RecursionError):
        return RowError("is not JSON")
