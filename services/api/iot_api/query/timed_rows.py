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
    """A reading with its time of receipt in Unix ms.

    Its `absolute_timestamp` is "", because a series does not return it.
    """

    received: int = 0


class TimedColumns:
    """Some readings as columns, in the order of the read. All columns have the same length."""

    def __init__(self, whole: SegmentColumns, indices: slice, texts: bytes) -> None:
        """Take the readings at `indices` of a segment. `texts` has their `freeform` texts, joined
        by `SEPARATOR`.
        """
        self._whole = whole
        self._indices = indices
        self.texts = texts

    def __len__(self) -> int:
        return len(range(self._indices.start, self._indices.stop))

    @property
    def ids(self) -> Sequence[int]:
        """The ids."""
        return self._whole.ids[self._indices]

    @property
    def received(self) -> Sequence[int]:
        """The times of receipt, in Unix ms."""
        return self._whole.received[self._indices]

    @property
    def interrogator(self) -> Sequence[int]:
        """The interrogator timestamps, in µs."""
        return self._whole.interrogator[self._indices]

    def times(self, query: SeriesQuery) -> Sequence[int]:
        """Return the column `time`, in whole ms: times of receipt, or interrogator timestamps."""
        if query.by_receipt:
            return self.received
        return [time // 1000 for time in self.interrogator]


class TimedRun(ColumnRun):
    """A batch of readings. A `TimedReading` is created only when it is accessed."""

    def __init__(self, columns: SegmentColumns, indices: slice, texts: memoryview) -> None:
        """`columns` has the whole segment. `indices` and `texts` are as in `TimedColumns`."""
        self._columns = columns
        self._indices = range(indices.start, indices.stop)
        self._texts = texts

    def __len__(self) -> int:
        return len(self._indices)

    @overload
    def __getitem__(self, index: int) -> TimedReading: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Reading]: ...

    def __getitem__(self, index: int | slice) -> Reading | Sequence[Reading]:
        if isinstance(index, int):
            at = self._indices[index]
            one = slice(at, at + 1)
            (reading,) = _readings_at(self._columns, one, self._columns.freeform[one])
            return reading
        indices = self._indices[index]
        if indices == self._indices:
            return self
        texts = SEPARATOR.join(bytes(self._texts).split(SEPARATOR)[index])
        return TimedRun(self._columns, slice(indices.start, indices.stop), memoryview(texts))

    def position_of(self, index: int) -> Position:
        """Return the position of the reading at `index`."""
        at = self._indices[index]
        return self._columns.interrogator[at], self._columns.ids[at]

    def columns(self) -> TimedColumns:
        """Return the columns of all readings, without creating a `TimedReading`."""
        indices = slice(self._indices.start, self._indices.stop)
        return TimedColumns(self._columns, indices, bytes(self._texts))


@dataclass(frozen=True, slots=True)
class TimedRows(Rows):
    """The rows of a segment as `TimedReading`."""

    def runs(self) -> Iterator[Sequence[Reading]]:
        """Yield all rows as readings, in order, in batches.

        Each batch is a `TimedRun` if the order is ascending and no filter has removed rows.
        """
        texts = self.columns.freeform
        if self.order.descending or not isinstance(texts, Texts):
            yield from super(TimedRows, self).runs()
            return
        for indices, run in texts.runs(self.begin, self.end):
            yield TimedRun(self.columns, indices, run)

    def _readings_at(self, indices: slice, texts: Iterable[str]) -> Iterator[Reading]:
        return _readings_at(self.columns, indices, texts)


def _readings_at(
    columns: SegmentColumns, indices: slice, texts: Iterable[str]
) -> Iterator[TimedReading]:
    return map(
        TimedReading,
        repeat(""),
        texts,
        columns.ids[indices],
        columns.interrogator[indices],
        columns.relative[indices],
        columns.received[indices],
    )


def columns_of(batch: Sequence[Reading]) -> Iterator[TimedColumns]:
    """Yield the readings of a batch as columns, in one or more parts.

    The read must have been made with `rows=TimedRows`.
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
