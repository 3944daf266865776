"""Parquet files that can be imported."""

from collections.abc import Iterator
from datetime import date, time, timedelta
from decimal import Decimal
from numbers import Real
from pathlib import Path
from typing import Any, cast
from uuid import UUID

import msgspec

from .import_format import ImportFileError, check_columns
from .import_row import ImportRow, OtherPasswordError, RowError, row_of_parquet, same_password
from .parquet import pyarrow

_BATCH = 500
"""Number of rows that are decoded together. A row may have 16 MiB."""


class ParquetFile:
    """A Parquet file to import, such as a file of `iot-sensor export`.

    Its columns have the same names as those of a CSV file (`check_columns`).
    """

    more_pages = False

    def __init__(self, path: Path, password: str) -> None:
        self._pa, self._pq = pyarrow()
        self._path = path
        self._password = password

    def count(self) -> int | None:
        """Return the number of rows."""
        with self._opened() as file:
            return cast("int", file.metadata.num_rows)

    def rows(self) -> Iterator[ImportRow | RowError]:
        """Yield the rows."""
        with self._opened() as file:
            check_columns(self._path, "the schema", file.schema_arrow.names)
            try:
                for batch in file.iter_batches(_BATCH):
                    for row in self._batch_rows(batch):
                        yield self._row(row)
            except (OSError, self._pa.ArrowException) as error:
                raise self._damaged(error) from None

    def _opened(self) -> Any:
        try:
            return self._pq.ParquetFile(self._path)
        except (OSError, self._pa.ArrowException) as error:
            raise self._damaged(error) from None

    def _damaged(self, error: Exception) -> ImportFileError:
        return ImportFileError(f"{self._path} is not a Parquet file that can be read: {error}")

    def _batch_rows(self, batch: Any) -> Iterator[dict[str, object]]:
        columns = [self._cells(column) for column in batch.columns]
        for cells in zip(*columns, strict=True):
            yield dict(zip(batch.schema.names, cells, strict=True))

    def _cells(self, column: Any) -> list[object]:
        kind, types = column.type, self._pa.types
        if types.is_temporal(kind) and getattr(kind, "unit", None) == "ns":
            # The types of `datetime` have no nanoseconds.
            if types.is_timestamp(kind):
                kind = self._pa.timestamp("us", kind.tz)
            else:
                kind = (self._pa.time64 if types.is_time(kind) else self._pa.duration)("us")
            column = column.cast(kind, safe=False)
        try:
            return cast("list[object]", column.to_pylist())
        except (ValueError, OverflowError):
            return [_value_of(cell) for cell in column]

    def _row(self, row: dict[str, object]) -> ImportRow | RowError:
        for name, cell in row.items():
            try:
                row[name] = _plain(cell)
            except (ValueError, OverflowError) as error:
                return RowError(f"{name} has a value that can't be read: {error}")
        given = row.get("db_password")
        if given not in (None, "") and not same_password(given, self._password):
            return OtherPasswordError("is under another password")
        try:
            return row_of_parquet(row)
        except RowError as error:
            return error


def _plain(cell: Any) -> object:
    """Return a value in the form in which JSON can hold it. A decimal number stays a `Decimal`.

    Raises:
        ValueError, OverflowError: `cell` is an exception that `_value_of` returned, JSON has no
            form for the value, or binary data is not UTF-8.
    """
    if hasattr(cell, "nanosecond"):  # a `pandas.Timestamp` of a list or struct
        cell = cell.replace(nanosecond=0)
    match cell:
        case None | bool() | int() | float() | str() | Decimal():
            return cell
        case timedelta():  # may be a subclass of pandas, which msgspec refuses
            return msgspec.to_builtins(timedelta(cell.days, cell.seconds, cell.microseconds))
        case bytes() | date() | time() | UUID():
            return cell.decode() if isinstance(cell, bytes) else str(cell)
        case list() | tuple():
            return [_plain(each) for each in cell]
        case dict():
            return {name: _plain(each) for name, each in cell.items()}
        case Real():  # `numpy.float16`, from pyarrow before 21
            return float(cell)
        case Exception():
            raise cell
    raise ValueError(f"JSON has no form for {type(cell).__name__}")


def _value_of(cell: Any) -> object:
    """Return the value of a cell, or the exception if Python can't hold the value.

    Python can't hold a time after the year 9999, for example, nor a text that is not UTF-8.
    """
    try:
        return cell.as_py()
    except (ValueError, OverflowError) as error:
        return error
