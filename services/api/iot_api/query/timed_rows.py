"""Readings as columns, with their exact time of receipt, for series."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import repeat
from operator import attrgetter
from typing import cast, overload

from iot_models.reading import Reading
from iot_models.segment import SegmentColumns

from .segment_reader import Rows
from .series_query import SeriesQuery


class TimedReading(Reading, gc=False):
    """A reading with its time of receipt in ms, and without the text of this time."""

    received: int = 0


class TimedRun(Sequence[Reading]):
    """A batch of `TimedReading` that exists as columns until an item is asked for."""

    def __init__(self, columns: SegmentColumns) -> None:
        self.columns = columns

    def __len__(self) -> int:
        return len(self.columns.ids)

    @overload
    def __getitem__(self, place: int) -> TimedReading: ...

    @overload
    def __getitem__(self, place: slice) -> list[Reading]: ...

    def __getitem__(self, place: int | slice) -> Reading | list[Reading]:
        if isinstance(place, slice):
            return _readings(self.columns.cut(place))
        place = range(len(self))[place]
        (reading,) = _readings(self.columns.cut(slice(place, place + 1)))
        return reading


@dataclass(frozen=True, slots=True)
class TimedRows(Rows):
    """The rows of a segment as `TimedReading`."""

    @staticmethod
    def _readings_of(columns: SegmentColumns) -> list[Reading]:
        return _readings(columns)

    @classmethod
    def _run_of(cls, columns: SegmentColumns) -> Sequence[Reading]:
        return TimedRun(columns)


def _readings(columns: SegmentColumns) -> list[Reading]:
    return list(
        map(
            TimedReading,
            repeat(""),
            columns.freeform,
            columns.ids,
            columns.interrogator,
            columns.relative,
            columns.received,
        )
    )


def columns_of(batch: Sequence[Reading]) -> SegmentColumns:
    """Return the columns of a batch that was read as `TimedRows`."""
    if isinstance(batch, TimedRun):
        return batch.columns
    readings = cast("Sequence[TimedReading]", batch)
    ids, received, relative, interrogator, freeform = (
        list(map(attrgetter(name), readings))
        for name in ("id", "received", "relative_timestamp", "interrogator_timestamp", "freeform")
    )
    return SegmentColumns(ids, received, relative, interrogator, freeform)


def times_of(query: SeriesQuery, readings: SegmentColumns) -> Sequence[int]:
    """Return the column `time`: the time of receipt, or the interrogator timestamp, in whole ms."""
    if query.by_receipt:
        return readings.received
    return [time // 1000 for time in readings.interrogator]
