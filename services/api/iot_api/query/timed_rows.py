"""Readings with their exact time of receipt, for series."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import repeat

from iot_models.reading import Reading
from iot_models.segment import SegmentColumns

from .segment_reader import Rows
from .series_query import SeriesQuery


class TimedReading(Reading, gc=False):
    """A reading with its time of receipt in ms, and without the text of this time."""

    received: int = 0


@dataclass(frozen=True, slots=True)
class TimedRows(Rows):
    """The rows of a segment as `TimedReading`."""

    @staticmethod
    def _readings_of(columns: SegmentColumns) -> list[Reading]:
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


def times_of(query: SeriesQuery, readings: Sequence[TimedReading]) -> list[int]:
    """Return the column `time`: the time of receipt, or the interrogator timestamp, in whole ms."""
    if query.by_receipt:
        return [reading.received for reading in readings]
    return [reading.interrogator_timestamp // 1000 for reading in readings]
