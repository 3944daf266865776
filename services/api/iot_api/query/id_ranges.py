"""Detect segments that share ids.

Every reading of a vault has an id of its own. Two segments with a common id mean that a row was put
back, for example the source of a merged segment, or that the database was rolled back and assigned
ids twice.
"""

from array import array
from bisect import bisect_left, bisect_right
from enum import Enum

from iot_models.reading import int64s
from iot_models.segment import ID_STRIDE, SegmentBounds

MOST_RANGES = 2**16
"""Ranges kept for each shard (1 MiB). Beyond it, only the ranges near the last one are kept."""


class Overlap(Enum):
    """Whether a segment shares ids with an earlier one."""

    NONE = 0
    POSSIBLE = 1
    """The ranges overlap, but one of them has gaps: only the readings can tell."""
    CERTAIN = 2


class IdRanges:
    """Ranges of ids of the segments read so far. Takes O(log n) a segment."""

    def __init__(self) -> None:
        self._dense: dict[int, _Ranges] = {}
        self._sparse: dict[int, _Ranges] = {}

    def add(self, bounds: SegmentBounds) -> Overlap:
        """Add a segment; return whether it shares ids with earlier ones."""
        first, last = bounds.first_id, bounds.last_id
        residue = first % ID_STRIDE  # ids of different shards never collide
        dense = self._dense.setdefault(residue, _Ranges())
        sparse = self._sparse.setdefault(residue, _Ranges())
        if last - first == (bounds.count - 1) * ID_STRIDE:
            if dense.add(first, last):
                return Overlap.CERTAIN
            return Overlap.POSSIBLE if sparse.overlaps(first, last) else Overlap.NONE
        overlapped = dense.overlaps(first, last)
        return Overlap.POSSIBLE if sparse.add(first, last) or overlapped else Overlap.NONE


class _Ranges:
    """Disjoint ranges in order. Adjacent and overlapping ranges are merged."""

    def __init__(self) -> None:
        self._firsts: array[int] = int64s()
        self._lasts: array[int] = int64s()

    def overlaps(self, first: int, last: int) -> bool:
        """Return whether any range contains an id of `first` to `last`."""
        return bisect_left(self._lasts, first) < bisect_right(self._firsts, last)

    def add(self, first: int, last: int) -> bool:
        """Add a range; return whether it has ids in common with another one."""
        firsts, lasts = self._firsts, self._lasts
        overlapped = self.overlaps(first, last)
        begin = bisect_left(lasts, first - ID_STRIDE)
        end = bisect_right(firsts, last + ID_STRIDE)
        if begin < end:
            first, last = min(first, firsts[begin]), max(last, lasts[end - 1])
        firsts[begin:end], lasts[begin:end] = int64s([first]), int64s([last])
        if len(firsts) > MOST_RANGES:
            half = MOST_RANGES // 2
            far = slice(half) if begin > half else slice(half, None)
            del firsts[far], lasts[far]
        return overlapped
