"""Finding segments that share ids: rows of the history that were put back beside their successors.

Every reading of a vault has an id of its own. Two segments with a common id mean that somebody
replayed a row, for example the sources of a merged segment, or that the database was rolled back
and gave ids twice.
"""

from array import array
from bisect import bisect_left, bisect_right
from enum import Enum

from iot_models.reading import int64s
from iot_models.segment import ID_STRIDE, SegmentBounds

MOST_RANGES = 2**16
"""Ranges remembered for each shard; 1 MiB. More than that, only those near the last one."""


class Overlap(Enum):
    """Whether a segment shares ids with an earlier one."""

    NONE = 0
    POSSIBLE = 1
    """Their ranges of ids overlap, but at least one of them has gaps: its readings tell."""
    CERTAIN = 2


class IdRanges:
    """Ranges of ids of the segments met so far. Costs O(log n) a segment."""

    def __init__(self) -> None:
        self._dense: dict[int, _Ranges] = {}
        self._sparse: dict[int, _Ranges] = {}

    def add(self, bounds: SegmentBounds) -> Overlap:
        """Remember a segment; whether it shares ids with those before it."""
        first, last = bounds.first_id, bounds.last_id
        residue = first % ID_STRIDE  # ids of different shards never meet
        dense = self._dense.setdefault(residue, _Ranges())
        sparse = self._sparse.setdefault(residue, _Ranges())
        if last - first == (bounds.count - 1) * ID_STRIDE:
            if dense.add(first, last):
                return Overlap.CERTAIN
            return Overlap.POSSIBLE if sparse.meet(first, last) else Overlap.NONE
        meets = dense.meet(first, last)
        return Overlap.POSSIBLE if sparse.add(first, last) or meets else Overlap.NONE


class _Ranges:
    """Disjoint ranges in order; contiguous and overlapping ones become one."""

    def __init__(self) -> None:
        self._firsts: array[int] = int64s()
        self._lasts: array[int] = int64s()

    def meet(self, first: int, last: int) -> bool:
        """Whether a range has ids in common with these."""
        return bisect_left(self._lasts, first) < bisect_right(self._firsts, last)

    def add(self, first: int, last: int) -> bool:
        """Add a range; whether it had ids in common with these."""
        firsts, lasts = self._firsts, self._lasts
        met = self.meet(first, last)
        begin = bisect_left(lasts, first - ID_STRIDE)
        end = bisect_right(firsts, last + ID_STRIDE)
        if begin < end:
            first, last = min(first, firsts[begin]), max(last, lasts[end - 1])
        firsts[begin:end], lasts[begin:end] = int64s([first]), int64s([last])
        if len(firsts) > MOST_RANGES:
            half = MOST_RANGES // 2
            far = slice(half) if begin > half else slice(half, None)
            del firsts[far], lasts[far]
        return met
