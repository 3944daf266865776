"""Merges decrypted segments into fewer, larger ones."""

from collections.abc import Iterator, Sequence
from itertools import chain
from math import ceil

from iot_models.segment import SegmentColumns
from iot_stores.months import DAY_MS

MAX_READINGS = 8192
"""Maximum number of readings in a merged segment. A read that merges segments holds up to this many
readings of each in memory."""


def merge_segments(parts: Sequence[SegmentColumns]) -> Iterator[SegmentColumns]:
    """Merge segments. Yield a segment for each day of receipt (UTC), or several for a large day.

    Readings are sorted by interrogator timestamp, then id. A day with more than `MAX_READINGS`
    readings is cut, in this order, into segments of about equal size. Each of them has at least
    `MAX_READINGS / 2` readings, so it is too large to be merged again.
    """
    whole = _join(parts)
    keys = list(zip(whole.interrogator, whole.ids, strict=True))
    days: dict[int, list[int]] = {}
    for position in sorted(range(len(keys)), key=keys.__getitem__):
        days.setdefault(whole.received[position] // DAY_MS, []).append(position)
    for day in sorted(days):
        for positions in _split(days[day]):
            yield _select(whole, positions)


def _join(parts: Sequence[SegmentColumns]) -> SegmentColumns:
    return SegmentColumns(
        ids=list(chain.from_iterable(part.ids for part in parts)),
        received=list(chain.from_iterable(part.received for part in parts)),
        relative=list(chain.from_iterable(part.relative for part in parts)),
        interrogator=list(chain.from_iterable(part.interrogator for part in parts)),
        freeform=list(chain.from_iterable(part.freeform for part in parts)),
    )


def _split(positions: list[int]) -> Iterator[list[int]]:
    count = len(positions)
    pieces = ceil(count / MAX_READINGS)
    for number in range(pieces):
        yield positions[count * number // pieces : count * (number + 1) // pieces]


def _select(whole: SegmentColumns, positions: list[int]) -> SegmentColumns:
    return SegmentColumns(
        ids=list(map(whole.ids.__getitem__, positions)),
        received=list(map(whole.received.__getitem__, positions)),
        relative=list(map(whole.relative.__getitem__, positions)),
        interrogator=list(map(whole.interrogator.__getitem__, positions)),
        freeform=list(map(whole.freeform.__getitem__, positions)),
    )
