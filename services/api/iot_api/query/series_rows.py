"""The rows of a series as JSON, NDJSON and CSV."""

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import compress, islice
from typing import Any

import msgspec

from iot_models.reading import Reading

from .responses import CsvForm, JsonForm, NdjsonForm, ReadingForm
from .series_fields import FieldReader, passing
from .series_query import SeriesQuery
from .timed_rows import TimedColumns, columns_of

Row = tuple[Any, ...]
ROWS = 2048
"""Rows encoded at a time."""

_encoder = msgspec.json.Encoder()


class RowForm:
    """Encodes the rows of one response, piece by piece."""

    media_type = JsonForm.media_type
    lead, between, tail = b'{"data":[', b",", b"]}\n"

    def __init__(self, columns: Sequence[str]) -> None:
        self._columns = columns
        self._lead = self._first_lead()

    def encode(self, rows: Sequence[Row]) -> bytes:
        """Encode one or more rows as the next piece of the response."""
        lead, self._lead = self._lead, self.between
        return lead + self._encoded(rows)

    def end(self) -> bytes:
        """Encode the end of the response."""
        return self.tail if self._lead == self.between else self._lead + self.tail

    def _first_lead(self) -> bytes:
        return self.lead

    def _objects(self, rows: Sequence[Row]) -> list[dict[str, Any]]:
        return [dict(zip(self._columns, row, strict=True)) for row in rows]

    def _encoded(self, rows: Sequence[Row]) -> bytes:
        return _encoder.encode(self._objects(rows))[1:-1]


class _NdjsonRows(RowForm):
    media_type = NdjsonForm.media_type
    lead = between = tail = b""

    def _encoded(self, rows: Sequence[Row]) -> bytes:
        return _encoder.encode_lines(self._objects(rows))


class _CsvRows(RowForm):
    media_type = CsvForm.media_type
    between = tail = b""

    def _first_lead(self) -> bytes:
        return self._encoded([self._columns])

    def _encoded(self, rows: Sequence[Sequence[Any]]) -> bytes:
        text = io.StringIO()
        csv.writer(text).writerows(
            [_csv_bool(value) if isinstance(value, bool) else value for value in row]
            for row in rows
        )
        return text.getvalue().encode()


def _csv_bool(value: bool) -> str:
    return "true" if value else "false"


ROW_FORMS: dict[str, Callable[[Sequence[str]], RowForm]] = {
    "json": RowForm,
    "ndjson": _NdjsonRows,
    "csv": _CsvRows,
}


MEDIA_FORMS = {
    JsonForm.media_type: "json",
    NdjsonForm.media_type: "ndjson",
    CsvForm.media_type: "csv",
}


def window_pieces(rows: Iterator[Row], form: RowForm) -> Iterator[bytes]:
    """Encode a series with windows: yield pieces of up to `ROWS` rows, then the end."""
    while part := list(islice(rows, ROWS)):
        yield form.encode(part)
    yield form.end()


class SeriesForm(ReadingForm):
    """Encodes a series without windows: each reading is a row of `time`, groups and fields."""

    def __init__(
        self, query: SeriesQuery, form: RowForm, charge: Callable[[int], None] = lambda _: None
    ) -> None:
        """`charge` is as in `FieldReader`. It may raise UnavailableError, which ends the
        request."""
        super().__init__()
        self.media_type = form.media_type
        self._query = query
        self._form = form
        self._reader = FieldReader(query.read_fields, charge)

    def encode(self, readings: Sequence[Reading]) -> bytes:
        """Encode the readings that pass the conditions; return b"" if none does."""
        return b"".join(map(self._encode_columns, columns_of(readings)))

    def _encode_columns(self, readings: TimedColumns) -> bytes:
        query = self._query
        columns = self._reader.columns(readings.texts, len(readings))
        rows: Iterable[Row] = zip(
            readings.times(query),
            *(columns[name].values for name in (*query.groups, *query.fields)),
            strict=True,
        )
        passed = passing(query.conditions, columns)
        if passed is not None:
            rows = compress(rows, passed)
        encoded = list(rows)
        return self._form.encode(encoded) if encoded else b""

    def end(self, cursor: str | None, *, paged: bool) -> bytes:
        """Encode the end of the response. A series has no pages: the arguments are ignored."""
        del cursor, paged
        return self._form.end()
