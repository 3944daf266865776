"""The formats of exported files: CSV, NDJSON, Parquet, and the database of the old program."""

import csv
import json
import sqlite3
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol, TextIO

import msgspec

from iot_models.reading import Reading

from .export_columns import OWN, Cell, Columns, Kind
from .legacy_cipher import LegacyCipher
from .parquet import pyarrow

_ROW_GROUP = 50_000
_ROW_GROUP_BYTES = 64 * 2**20
"""A row group of Parquet has `_ROW_GROUP` readings, or fewer if their `freeform` reaches
`_ROW_GROUP_BYTES`."""
_LEGACY_TABLE = (
    "CREATE TABLE IOTD(id INTEGER PRIMARY KEY, absolute_timestamp DATETIME DEFAULT"
    " CURRENT_TIMESTAMP, relative_timestamp BIGINT, interrogator_timestamp BIGINT, freeform TEXT)"
)


class Writer(Protocol):
    """An exported file that is being written."""

    def write(self, reading: Reading) -> None:
        """Add a reading."""

    def close(self) -> None:
        """Complete the file."""


OpenWriter = Callable[[Path], Writer]


class CsvWriter:
    """A CSV file with a header line: RFC 4180, but each row ends with a line feed only."""

    def __init__(self, path: Path, columns: Columns) -> None:
        self._file = path.open("w", encoding="utf-8", newline="")
        self._columns = columns
        # With "\n" as the terminator, CPython before 3.13 does not quote a cell that has a "\r".
        self._csv = csv.writer(_LineFeeds(self._file), lineterminator="\r\n")
        self._csv.writerow(columns.names)

    def write(self, reading: Reading) -> None:
        """Add a reading."""
        self._csv.writerow(map(_csv_cell, self._columns.cells(reading)))

    def close(self) -> None:
        """Complete the file."""
        self._file.close()


class _LineFeeds:
    """A file that replaces the CR LF at the end of each row of `csv.writer` by a line feed."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, row: str) -> None:
        """Write a whole row: `csv.writer` calls this method once for each row."""
        self._file.write(row.removesuffix("\r\n") + "\n")


def _csv_cell(cell: Cell) -> Cell:
    """Return a boolean or float as JSON text, such as `true` or `NaN`, and other cells unchanged.

    An import reads the same value from this text.
    """
    return json.dumps(cell) if isinstance(cell, bool | float) else cell


class NdjsonWriter:
    """A file with one JSON object per line."""

    def __init__(self, path: Path, columns: Columns) -> None:
        self._file = path.open("wb")
        self._columns = columns
        self._names = columns.names

    def write(self, reading: Reading) -> None:
        """Add a line with the reading as the API returns it.

        With flattened columns, the line is an object with all columns that have a value.
        """
        row: object = reading
        if self._columns.members:
            cells = self._columns.cells(reading)
            row = {n: cell for n, cell in zip(self._names, cells, strict=True) if cell is not None}
        self._file.write(msgspec.json.encode(row) + b"\n")

    def close(self) -> None:
        """Complete the file."""
        self._file.close()


class ParquetWriter:
    """A Parquet file."""

    def __init__(self, path: Path, columns: Columns) -> None:
        pa, pq = pyarrow()
        types = {
            Kind.BOOLEAN: pa.bool_(), Kind.INTEGER: pa.int64(),
            Kind.FLOAT: pa.float64(), Kind.TEXT: pa.string(),
        }  # fmt: skip
        own = [pa.int64(), pa.timestamp("ms", "UTC"), pa.int64(), pa.int64(), pa.string()]
        kinds = own + [types[kind] for _, kind in columns.members]
        self._pa: Any = pa
        self._schema = pa.schema(list(zip(columns.names, kinds, strict=True)))
        self._writer = pq.ParquetWriter(path, self._schema, compression="zstd")
        self._columns = columns
        self._rows: list[list[Cell]] = []
        self._bytes = 0

    def write(self, reading: Reading) -> None:
        """Add a reading."""
        self._rows.append(self._columns.cells(reading))
        self._bytes += len(reading.freeform)  # the service returns ASCII
        if len(self._rows) == _ROW_GROUP or self._bytes >= _ROW_GROUP_BYTES:
            self._flush()

    def close(self) -> None:
        """Complete the file."""
        if self._rows:
            self._flush()
        self._writer.close()

    def _flush(self) -> None:
        columns: list[Any] = [list(column) for column in zip(*self._rows, strict=True)]
        received = OWN.index("absolute_timestamp")
        columns[received] = list(map(_moment, columns[received]))
        arrays = [
            self._pa.array(column, field.type)
            for column, field in zip(columns, self._schema, strict=True)
        ]
        self._writer.write_table(self._pa.Table.from_arrays(arrays, schema=self._schema))
        self._rows, self._bytes = [], 0


@lru_cache(maxsize=4096)
def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


class LegacyWriter:
    """A database of the old program, encrypted as the old program does it."""

    def __init__(self, path: Path, password: str) -> None:
        self._cipher = LegacyCipher(password)
        self._database = sqlite3.connect(path)
        # After an error, the file is deleted, so a journal would only be left behind.
        self._database.execute("PRAGMA journal_mode = OFF")
        self._database.execute(_LEGACY_TABLE)

    def write(self, reading: Reading) -> None:
        """Add a reading."""
        time = reading.interrogator_timestamp
        self._database.execute(
            "INSERT INTO IOTD (absolute_timestamp, relative_timestamp, interrogator_timestamp,"
            " freeform) VALUES (?, ?, ?, ?)",
            (
                reading.absolute_timestamp, reading.relative_timestamp, time,
                self._cipher.encrypt(reading.freeform.encode(), time),
            ),
        )  # fmt: skip

    def close(self) -> None:
        """Complete the file."""
        self._database.commit()
        self._database.close()
