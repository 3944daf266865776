"""The merge of segments into one order, in bounded memory, and which segments overlap."""

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from heapq import heappop, heappush
from operator import attrgetter

from iot_cipher.encryption import SealedSegment
from iot_models.reading import Reading
from iot_models.segment import ID_STRIDE, SegmentBounds
from iot_stores.interval_index import Position

from .rows import ASCENDING, Order, Rows

BATCH = 4096
"""Approximate number of readings in a batch."""
BATCH_BYTES = 2 * 2**20
"""Approximate memory of a batch of large readings."""
SINGLE_BYTES = 2**18
"""Rows of this size that overlap no other segment are emitted without passing the buffer."""
BUFFER_BYTES = 16 * 2**20
"""Approximate memory for decrypted readings of overlapping segments."""
MAX_RANGES = 2**16
"""Ranges kept for each shard (1 MiB). Beyond it, only the ranges near the last one are kept."""

_id_of = attrgetter("id")

OpenSegment = Callable[[SealedSegment], Rows]


def merge(
    segments: Iterable[SealedSegment],
    open_segment: OpenSegment,
    order: Order = ASCENDING,
    *,
    batch: int = 0,
    max_bytes: Callable[[], int] = lambda: BUFFER_BYTES,
    report_overlap: Callable[[int], None] = lambda _: None,
) -> Iterator[Sequence[Reading]]:
    """Yield the readings of all segments in order, in batches of about `batch` (0: `BATCH`).

    `segments` must be ordered by where they begin, so that all readings before the start of the
    next segment are known. The buffer holds the segments that overlap the current position: all of
    them encrypted, and decrypted readings up to `max_bytes`. Readings beyond that are dropped, and
    their segment is opened again when the merge reaches them. One segment alone is never too large.

    A reading that is in two segments is yielded once. Two readings that have one id and differ are
    both yielded. `report_overlap` is called with the first id that two segments have in common.
    """
    buffer = MergeBuffer(open_segment, order, batch or BATCH, max_bytes, report_overlap)
    ranges = IdRanges()
    for segment in segments:
        yield from buffer.advance_to(order.begin(segment.bounds))
        overlap = ranges.add(segment.bounds)
        if overlap is not Overlap.NONE:
            buffer.expect_duplicates()
        if overlap is Overlap.CERTAIN:
            report_overlap(segment.bounds.first_id)
        buffer.add(segment)
    yield from buffer.advance_to(None)


@dataclass(slots=True, eq=False)
class _BufferedSegment:
    """A segment with readings in the buffer, from key `first` to key `last`."""

    segment: SealedSegment
    first: Position
    last: Position
    spilled_from: Position | None = None
    """The first key whose readings were dropped; None if none were."""


class MergeBuffer:
    """Decrypted readings of the segments that overlap the current position.

    Two states make this more than a sorted list:

    - The part of a segment that is behind all readings of the buffer waits in `_single` and is
      emitted straight from its columns. Most segments overlap no other, or only at their ends, and
      the columns need less memory than readings.
    - When the buffer is full, `_spill` drops the later half of the readings and remembers from
      which key each segment has to be opened again. Until the merge reaches `_cut`, readings from
      that key on are not buffered at all.
    """

    def __init__(
        self,
        open_segment: OpenSegment,
        order: Order,
        batch: int,
        max_bytes: Callable[[], int],
        report_overlap: Callable[[int], None],
    ) -> None:
        self._open = open_segment
        self._order = order
        self._batch = self._enough = batch
        self._max_bytes = max_bytes
        self._report_overlap = report_overlap
        self._may_repeat = False
        """Whether two buffered segments may hold the same reading."""
        self._single: Rows | None = None
        self._readings: list[Reading] = []
        self._sorted = True
        self._bytes = 0
        self._enough_bytes = BATCH_BYTES
        self._buffered: list[_BufferedSegment] = []
        self._spilled: list[tuple[Position, int, _BufferedSegment]] = []
        """A heap by key. A segment that was spilled twice has two items; the older one is stale."""
        self._cut: Position | None = None
        """Readings from this key on are dropped, until the merge has reached the key."""

    def expect_duplicates(self) -> None:
        """Look for duplicates: the next segment may repeat readings of earlier ones."""
        self._may_repeat = True

    def advance_to(self, begin: Position | None) -> Iterator[Sequence[Reading]]:
        """Yield readings before `begin`, the start of the next segment; None: yield all.

        Yields nothing while there are too few readings for a batch.
        """
        while (spilled := self._pop_spilled(begin)) is not None:
            key, segment = spilled
            yield from self._emit_before(key)
            self.add(segment, key)
        yield from self._emit_before(begin)

    def add(self, segment: SealedSegment, start: Position | None = None) -> None:
        """Open a segment and buffer its readings from key `start` on."""
        rows = self._open(segment)
        if start is not None:
            rows = rows.since(start)
        if not len(rows):
            return
        if start is None and self._cut is None and not self._spilled:
            if not self._readings:
                self._buffered = []
            if self._keep_end(segment, rows):
                return
        self._fill(segment, rows)
        if self._bytes > self._max_bytes() and len(self._buffered) > 2:
            self._spill()

    def _keep_end(self, segment: SealedSegment, rows: Rows) -> bool:
        """Keep the rows behind all readings of the buffer as columns, if there are enough.

        Buffer the rows before them. Return False if nothing was done.
        """
        if not self._is_enough(rows):
            return False
        head, tail = rows.first(0), rows
        if self._buffered:
            end = max(buffered.last for buffered in self._buffered)
            begin = end[0], end[1] + 1
            head, tail = rows.before(begin), rows.since(begin)
        if not self._is_enough(tail) or self._bytes + head.bytes > self._max_bytes():
            return False
        self._buffered.append(_BufferedSegment(segment, rows.first_key, rows.last_key))
        if len(head):
            self._append(head)
        self._single = tail
        return True

    def _is_enough(self, rows: Rows) -> bool:
        return len(rows) >= self._batch or rows.bytes >= SINGLE_BYTES

    def _fill(self, segment: SealedSegment, rows: Rows) -> None:
        buffered = _BufferedSegment(segment, rows.first_key, rows.last_key)
        if self._cut is not None and buffered.last >= self._cut:
            self._reopen_at(buffered, rows.since(self._cut).first_key)
            rows = rows.before(self._cut)
            if not len(rows):
                return
        self._append(rows)
        self._buffered.append(buffered)

    def _append(self, rows: Rows) -> None:
        readings, key = rows.readings(), self._order.key
        if self._readings and key(readings[0]) < key(self._readings[-1]):
            self._sorted = False
        self._readings += readings
        self._bytes += rows.bytes

    def _reopen_at(self, buffered: _BufferedSegment, key: Position) -> None:
        buffered.spilled_from = buffered.last = key
        heappush(self._spilled, (key, id(buffered), buffered))

    def _pop_spilled(self, begin: Position | None) -> tuple[Position, SealedSegment] | None:
        """Return the next segment to open again, with its key, if the key is not after `begin`."""
        while self._spilled and (begin is None or self._spilled[0][0] <= begin):
            key, _, buffered = heappop(self._spilled)
            if buffered.spilled_from == key:
                buffered.spilled_from = None
                # The rest of this segment in the buffer is complete: do not spill it again.
                buffered.last = buffered.first
                return key, buffered.segment
        return None

    def _emit_before(self, begin: Position | None) -> Iterator[Sequence[Reading]]:
        reached_cut = self._cut is not None and (begin is None or begin >= self._cut)
        if reached_cut:
            self._cut = None
        if self._single is not None:
            if self._readings:
                split = self._single.first_key
                yield from self._emit_sorted(split if begin is None else min(split, begin))
            if self._readings:  # the next segment overlaps three
                self._append(self._single)
                self._single = None
                self._require_more()
            else:
                yield from self._emit_single(self._single, begin)
        elif self._readings and (reached_cut or begin is None or self._has_enough()):
            yield from self._emit_sorted(begin)

    def _has_enough(self) -> bool:
        return len(self._readings) >= self._enough or self._bytes >= self._enough_bytes

    def _require_more(self) -> None:
        # Sorting the rest again pays only after as much has been added.
        self._enough = max(self._batch, 2 * len(self._readings))
        self._enough_bytes = max(BATCH_BYTES, 2 * self._bytes)

    def _emit_single(self, single: Rows, begin: Position | None) -> Iterator[Sequence[Reading]]:
        """Yield the rows before `begin`, and buffer the others."""
        self._single = None
        head = single if begin is None else single.before(begin)
        if len(head):
            yield from head.runs()
        rest = single.first(0) if begin is None else single.since(begin)
        self._readings = rest.readings()
        self._buffered = self._buffered[-1:] if len(rest) else []
        self._bytes = rest.bytes
        self._require_more()

    def _emit_sorted(self, end: Position | None) -> Iterator[Sequence[Reading]]:
        self._sort()
        readings, key = self._readings, self._order.key
        complete = len(readings) if end is None else bisect_left(readings, end, key=key)
        if complete:
            head = readings[:complete]
            yield self._without_duplicates(head) if self._may_repeat else head
            self._readings = readings[complete:]
            # Segments that were spilled or wait as columns may repeat readings of later ones.
            self._may_repeat &= bool(self._readings or self._spilled or self._single is not None)
            self._bytes = self._bytes * len(self._readings) // len(readings)
        if end is not None:
            self._buffered = [segment for segment in self._buffered if segment.last >= end]
        self._require_more()

    def _spill(self) -> None:
        """Drop the later half of the readings."""
        self._sort()
        keep = len(self._readings) // 2
        if not keep:
            return
        cut = self._order.key(self._readings[keep])
        # Never cut between readings of one key: duplicates are found side by side.
        keep = bisect_left(self._readings, cut, key=self._order.key)
        if not keep:
            return
        self._cut = cut
        del self._readings[keep:]
        self._bytes //= 2
        for segment in self._buffered:
            if segment.last >= cut:
                self._reopen_at(segment, max(cut, segment.first))
        self._buffered = [segment for segment in self._buffered if segment.first < cut]

    def _sort(self) -> None:
        if not self._sorted:
            # Timsort: the list is a few ascending runs, one per segment, so this is nearly linear.
            self._readings.sort(key=self._order.key)
            self._sorted = True

    def _without_duplicates(self, readings: list[Reading]) -> list[Reading]:
        if len(set(map(_id_of, readings))) == len(readings):
            return readings
        unique: list[Reading] = []
        same_id = 0  # readings at the end of `unique` with the id of the last one
        for reading in readings:
            if not unique or unique[-1].id != reading.id:
                same_id = 0
            else:
                self._report_overlap(reading.id)
                if reading in unique[-same_id:]:
                    continue
            unique.append(reading)
            same_id += 1
        return unique


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
        self._firsts: array[int] = array("q")
        self._lasts: array[int] = array("q")

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
        firsts[begin:end], lasts[begin:end] = array("q", [first]), array("q", [last])
        if len(firsts) > MAX_RANGES:
            half = MAX_RANGES // 2
            far = slice(half) if begin > half else slice(half, None)
            del firsts[far], lasts[far]
        return overlapped
