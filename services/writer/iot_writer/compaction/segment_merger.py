"""From opened segments to fewer, larger ones."""

from collections.abc import Iterator, Sequence
from itertools import chain
from math import ceil

from iot_models.segment import SegmentColumns
from iot_stores.months import DAY_MS

MOST_READINGS = 8192
"""In a merged segment: what a read holds in memory for each segment it merges."""


def merge_segments(parts: Sequence[SegmentColumns]) -> Iterator[SegmentColumns]:
    """The readings of all parts, a day of receipt after the other, by (interrogator, id).

    Of a day they are cut into pieces as large as may be, all of one size: their times then don't
    overlap, and none is left so small that it would be merged again.
    """
    whole = _joined(parts)
    keys = list(zip(whole.interrogator, whole.ids, strict=True))
    days: dict[int, list[int]] = {}
    for position in sorted(range(len(keys)), key=keys.__getitem__):
        days.setdefault(whole.received[position] // DAY_MS, []).append(position)
    for day in sorted(days):
        for positions in _cut(days[day]):
            yield _picked(whole, positions)


def _joined(parts: Sequence[SegmentColumns]) -> SegmentColumns:
    return SegmentColumns(
        ids=list(chain.from_iterable(part.ids for part in parts)),
        received=list(chain.from_iterable(part.received for part in parts)),
        relative=list(chain.from_iterable(part.relative for part in parts)),
        interrogator=list(chain.from_iterable(part.interrogator for part in parts)),
        freeform=list(chain.from_iterable(part.freeform for part in parts)),
    )


def _cut(positions: list[int]) -> Iterator[list[int]]:
    count = len(positions)
    pieces = ceil(count / MOST_READINGS)
    for number in range(pieces):
        yield positions[count * number // pieces : count * (number + 1) // pieces]


def _picked(whole: SegmentColumns, positions: list[int]) -> SegmentColumns:
    return SegmentColumns(
        ids=list(map(whole.ids.__getitem__, positions)),
        received=list(map(whole.received.__getitem__, positions)),
        relative=list(map(whole.relative.__getitem__, positions)),
        interrogator=list(map(whole.interrogator.__getitem__, positions)),
        freeform=list(map(whole.freeform.__getitem__, positions)),
    )
