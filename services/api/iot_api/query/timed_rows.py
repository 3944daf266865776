"""Readings as columns, with their exact time of receipt, for series."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import cast, overload

from iot_models.reading import SEPARATOR, Reading
from iot_models.segment import SegmentColumns, Texts
from iot_stores.interval_index import Position

from .merge import Rows
from .pausable_read import ColumnRun, SegmentBatch
from .series_query import SeriesQuery


class TimedReading(Reading, gc=False):
    """A reading with its time of receipt in Unix ms. Its `absolute_timestamp` is "", because a
    series does not return it.
    """

    received: int = 0


class TimedColumns:
    """Some readings as columns, in the order of the read. All columns have the same length."""

    def __init__(self, whole: SegmentColumns, places: slice, texts: bytes) -> None:
        """Take the readings at `places` of a segment. `texts` has the `freeform` texts of these
        readings, joined by `SEPARATOR`.
        """
        self._whole = whole
        self._places = places
        self.texts = texts

    def __len__(self) -> int:
        return len(range(self._places.start, self._places.stop))

    @property
    def ids(self) -> Sequence[int]:
        """The ids."""
        return self._whole.ids[self._places]

    @property
    def received(self) -> Sequence[int]:
        """The times of receipt, in Unix ms."""
        return self._whole.received[self._places]

    @property
    def interrogator(self) -> Sequence[int]:
        """The interrogator timestamps, in µs."""
        return self._whole.interrogator[self._places]

    def times(self, query: SeriesQuery) -> Sequence[int]:
        """Return the column `time`, in whole ms: the times of receipt, or the interrogator
        timestamps.
        """
        if query.by_receipt:
            return self.received
        return [time // 1000 for time in self.interrogator]


class TimedRun(ColumnRun):
    """A batch of readings: a `TimedReading` is created only when it is accessed."""

    def __init__(self, columns: SegmentColumns, places: slice, texts: memoryview) -> None:
        """Take the readings at `places` of a segment. `texts` has the `freeform` texts of these
        readings, joined by `SEPARATOR`.
        """
        self._columns = columns
        self._places = range(places.start, places.stop)
        self._texts = texts

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, place: int) -> TimedReading: ...

    @overload
    def __getitem__(self, place: slice) -> Sequence[Reading]: ...

    def __getitem__(self, place: int | slice) -> Reading | Sequence[Reading]:
        if isinstance(place, int):
            at = self._places[place]
            one = slice(at, at + 1)
            (reading,) = _readings_at(self._columns, one, self._columns.freeform[one])
            return reading
        places = self._places[place]
        if places == self._places:
            return self
        texts = SEPARATOR.join(bytes(self._texts).split(SEPARATOR)[place])
        return TimedRun(self._columns, slice(places.start, places.stop), memoryview(texts))

    def position_of(self, place: int) -> Position:
        """Return the position of the reading at index `place`."""
        at = self._places[place]
        return self._columns.interrogator[at], self._columns.ids[at]

    def columns(self) -> TimedColumns:
        """Return the columns of all readings, without creating a `TimedReading`."""
        places = slice(self._places.start, self._places.stop)
        return TimedColumns(self._columns, places, bytes(self._texts))


@dataclass(frozen=True, slots=True)
class TimedRows(Rows):
    """The rows of a segment as `TimedReading`."""

    def runs(self) -> Iterator[Sequence[Reading]]:
        """Yield all rows as readings, in order, in batches.

        If the order is ascending and no filter has removed rows, each batch is a `TimedRun`, which
        creates a `TimedReading` only when it is accessed.
        """
        texts = self.columns.freeform
        if self.order.descending or not isinstance(texts, Texts):
            yield from super(TimedRows, self).runs()
            return
        for places, run in texts.runs(self.begin, self.end):
            yield TimedRun(self.columns, places, run)

    def _readings_at(self, places: slice, texts: Iterable[str]) -> Iterator[Reading]:
        return _readings_at(self.columns, places, texts)


def _readings_at(
    columns: SegmentColumns, places: slice, texts: Iterable[str]
) -> Iterator[TimedReading]:
    return map(
        TimedReading,
        repeat(""),
        texts,
        columns.ids[places],
        columns.interrogator[places],
        columns.relative[places],
        columns.received[places],
    )


def columns_of(batch: Sequence[Reading]) -> Iterator[TimedColumns]:
    """Yield the readings of a batch as columns, in one or more parts. The read must have been made
    with `rows=TimedRows`.
    """
    if isinstance(batch, SegmentBatch):
        for run in batch.rows.runs():
            yield from columns_of(run)
    elif isinstance(batch, TimedRun):
        yield batch.columns()
    else:
        readings = cast("Sequence[TimedReading]", batch)
        columns = SegmentColumns(
            [each.id for each in readings],
            [each.received for each in readings],
            [each.relative_timestamp for each in readings],
            [each.interrogator_timestamp for each in readings],
            [each.freeform for each in readings],
        )
        texts = "\0".join(columns.freeform).encode("ascii")
        yield TimedColumns(columns, slice(0, len(readings)), texts)
