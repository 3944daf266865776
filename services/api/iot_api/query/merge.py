"""The merge of decrypted segments in the order of a read.

`Order` gives keys that increase in the order of the read. `merge` yields the readings of all
segments in order and in bounded memory, even if the segments overlap. `Rows` are rows of a
decrypted segment; they become `Reading` objects only when they are buffered or returned.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from heapq import heappop, heappush
from operator import attrgetter
from typing import Self

from iot_cipher.encryption import SealedSegment
from iot_models.reading import Reading
from iot_models.segment import SegmentBounds, SegmentColumns, Texts, split_texts
from iot_stores.history import ReadFilter
from iot_stores.interval_index import Position

BATCH = 4096
"""Approximate number of readings in a batch."""
BATCH_BYTES = 2 * 2**20
"""Approximate memory of a batch of large readings."""
SINGLE_BYTES = 2**18
"""Rows that do not fill a batch stay columns if they take this many bytes (`MergeBuffer`)."""
BUFFER_BYTES = 16 * 2**20
"""Approximate memory for decrypted readings of overlapping segments."""
_READING_BYTES = 300
"""Approximate memory of a reading without its text."""

_id_of = attrgetter("id")
position = attrgetter("interrogator_timestamp", "id")
"""The position of a reading."""


@dataclass(frozen=True, slots=True)
class Order:
    """The order of a read by position (interrogator timestamp, id): ascending or descending.

    Sort keys (or *keys*) increase along a read. In ascending order, a position is its own key. In
    descending order, both numbers are negated.
    """

    descending: bool
    key: Callable[[Reading], Position]

    def key_of(self, at: Position) -> Position:
        """Convert a position to its sort key, or a sort key to its position."""
        return (-at[0], -at[1]) if self.descending else at

    def just_before(self, key: Position) -> Position:
        """Return the position directly before the position of `key`, in this order."""
        at, number = self.key_of(key)
        return at, number + 1 if self.descending else number - 1

    def begin(self, bounds: SegmentBounds) -> Position:
        """Return a lower bound of the sort keys of a segment's readings."""
        if self.descending:
            return -bounds.interrogator_max, -bounds.last_id
        return bounds.interrogator_min, bounds.first_id

    def end(self, bounds: SegmentBounds) -> Position:
        """Return an upper bound of the sort keys of a segment's readings."""
        if self.descending:
            return -bounds.interrogator_min, -bounds.first_id
        return bounds.interrogator_max, bounds.last_id


def _descending_key(reading: Reading) -> Position:
    return -reading.interrogator_timestamp, -reading.id


ASCENDING = Order(descending=False, key=position)
DESCENDING = Order(descending=True, key=_descending_key)


class Run(list[Reading]):
    """A batch of readings with at most one long text.

    Only the last text in ascending order, or the first in descending order, may be long. The other
    texts have up to `RUN_CHARACTERS` characters in total.
    """


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of a segment from index `begin` up to index `end`, exclusive."""

    columns: SegmentColumns
    """The columns in ascending order, even if `order` is descending."""
    order: Order
    begin: int
    end: int

    def __len__(self) -> int:
        return self.end - self.begin

    @property
    def first_key(self) -> Position:
        """The sort key of the first row. There must be at least one row."""
        return self.order.key_of(self._at(self.end - 1 if self.order.descending else self.begin))

    @property
    def last_key(self) -> Position:
        """The sort key of the last row. There must be at least one row."""
        return self.order.key_of(self._at(self.begin if self.order.descending else self.end - 1))

    @property
    def bytes(self) -> int:
        """Approximate memory of all rows as `Reading` objects, in bytes."""
        texts = self.columns.freeform
        size = texts.size if isinstance(texts, Texts) else sum(map(len, texts))
        return len(self) * (size // max(1, len(self.columns.ids)) + _READING_BYTES)

    def since(self, key: Position) -> Self:
        """Return the rows from a sort key on."""
        at = self.order.key_of(key)
        if self.order.descending:
            return replace(self, end=max(self.begin, min(self.end, self._index(at, behind=True))))
        return replace(self, begin=min(self.end, max(self.begin, self._index(at, behind=False))))

    def before(self, key: Position) -> Self:
        """Return the rows before a sort key."""
        at = self.order.key_of(key)
        if self.order.descending:
            return replace(self, begin=min(self.end, max(self.begin, self._index(at, behind=True))))
        return replace(self, end=max(self.begin, min(self.end, self._index(at, behind=False))))

    def first(self, count: int) -> Self:
        """Return the first `count` rows."""
        if self.order.descending:
            return replace(self, begin=max(self.begin, self.end - count))
        return replace(self, end=min(self.end, self.begin + count))

    def matching(self, read_filter: ReadFilter) -> Self:
        """Return the rows that pass a filter."""
        columns = self.columns
        return self.selected(
            [
                read_filter.admits(relative, received)
                for relative, received in zip(columns.relative, columns.received, strict=True)
            ]
        )

    def selected(self, kept: Sequence[bool]) -> Self:
        """Return the rows to keep. `kept[i]` says whether to keep index i of the columns."""
        begin, end = sum(kept[: self.begin]), sum(kept[: self.end])
        return replace(self, columns=self.columns.selected(kept), begin=begin, end=end)

    def readings(self) -> list[Reading]:
        """Return all rows as readings, in order."""
        indices = slice(self.begin, self.end)
        readings = list(self._readings_at(indices, self.columns.freeform[indices]))
        if self.order.descending:
            readings.reverse()
        return readings

    def runs(self) -> Iterator[Sequence[Reading]]:
        """Yield all rows as readings, in order, in batches."""
        texts = self.columns.freeform
        if not isinstance(texts, Texts):
            yield self.readings()
            return
        if not self.order.descending:
            for indices, part in texts.split(self.begin, self.end):
                yield Run(self._readings_at(indices, part))
                del part  # before the next texts are decoded: one may have 20 MiB
            return
        for indices, run in texts.runs(self.begin, self.end, descending=True):
            yield Run(list(self._readings_at(indices, split_texts(run)))[::-1])

    def _readings_at(self, indices: slice, texts: Iterable[str]) -> Iterator[Reading]:
        return self.columns.readings_at(indices, texts)

    def _index(self, at: Position, *, behind: bool) -> int:
        """Count the rows before a position; with `behind`, count a row at the position, too."""
        find = bisect_right if behind else bisect_left
        return find(range(len(self.columns.ids)), at, key=self._at)

    def _at(self, index: int) -> Position:
        return self.columns.interrogator[index], self.columns.ids[index]


OpenSegment = Callable[[SealedSegment], Rows]


def merge(
    segments: Iterable[SealedSegment],
    open_segment: OpenSegment,
    order: Order = ASCENDING,
    *,
    batch: int = 0,
    max_bytes: Callable[[], int] = lambda: BUFFER_BYTES,
    may_repeat: Callable[[SegmentBounds], bool] = lambda _: True,
    report_overlap: Callable[[int], None] = lambda _: None,
) -> Iterator[Sequence[Reading]]:
    """Yield the readings of all segments in order, about `batch` at a time (0: `BATCH`).

    `segments` must be ordered by where they begin, so that all readings before the start of the
    next segment are known. The buffer holds the segments that overlap the current position: their
    encrypted payloads, and their decrypted readings up to `max_bytes`. If more than two segments
    overlap and exceed `max_bytes`, the later half of the readings is dropped. Their segments are
    opened again when the merge reaches these readings.

    A reading that is in two segments is yielded once. Two different readings with the same id are
    both yielded. `may_repeat` returns whether a segment may contain readings of earlier segments.
    `report_overlap` is called with each id that two segments contain.
    """
    buffer = MergeBuffer(open_segment, order, batch or BATCH, max_bytes, report_overlap)
    for segment in segments:
        yield from buffer.advance_to(order.begin(segment.bounds))
        if may_repeat(segment.bounds):
            buffer.expect_duplicates()
        buffer.add(segment)
    yield from buffer.advance_to(None)


@dataclass(slots=True, eq=False)
class _BufferedSegment:
    """A segment with readings in the buffer, from sort key `first` to sort key `last`."""

    segment: SealedSegment
    first: Position
    last: Position
    spilled_from: Position | None = None
    """The sort key from which on readings were dropped; None if no reading was dropped."""


class MergeBuffer:
    """Decrypted readings of the segments that overlap the current position.

    The readings are a sorted list, with two exceptions:

    - `_single` holds the newest segment's rows behind all buffered readings. They stay columns,
      which need less memory. Most segments overlap others only at their ends or not at all.
    - When the buffer is full, `_spill` drops the later half of the readings, and notes the position
      from which each segment must be opened again. `_cut` is the first of these positions. Readings
      from `_cut` on are not buffered until the merge reaches `_cut`.
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
        """Readings from this position on are dropped, until the merge has reached the position."""

    def expect_duplicates(self) -> None:
        """Make `advance_to` look for duplicates: the next segment may repeat earlier readings."""
        self._may_repeat = True

    def advance_to(self, begin: Position | None) -> Iterator[Sequence[Reading]]:
        """Yield the readings before the sort key `begin`; None: all readings.

        If only a few readings come before `begin`, they may stay buffered until a later call.
        """
        while (spilled := self._pop_spilled(begin)) is not None:
            key, segment = spilled
            yield from self._emit_before(key)
            self.add(segment, key)
        yield from self._emit_before(begin)

    def add(self, segment: SealedSegment, start: Position | None = None) -> None:
        """Open a segment and buffer its readings from the sort key `start` on; None: all."""
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
        """Keep the rows behind all buffered readings as columns, and buffer the others.

        If too few rows would be kept as columns, or the other rows do not fit into the buffer, do
        nothing and return False.
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
        """Return the next position from which a segment must be opened again, and the segment.

        Return None if the next position is after `begin`.
        """
        while self._spilled and (begin is None or self._spilled[0][0] <= begin):
            key, _, buffered = heappop(self._spilled)
            if buffered.spilled_from == key:
                buffered.spilled_from = None
                # The segment is added again from `key` on: do not spill this item again.
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
            if self._readings:  # the next segment begins before the end of the buffered readings
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
        # Sort again only after the buffer has doubled.
        self._enough = max(self._batch, 2 * len(self._readings))
        self._enough_bytes = max(BATCH_BYTES, 2 * self._bytes)

    def _emit_single(self, single: Rows, begin: Position | None) -> Iterator[Sequence[Reading]]:
        """Yield the rows before the sort key `begin`, and buffer the others; None: yield all."""
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
            # Spilled segments, and the one kept as columns, may repeat readings of later segments.
            self._may_repeat &= bool(self._readings or self._spilled or self._single is not None)
            self._bytes = self._bytes * len(self._readings) // len(readings)
        if end is not None:
            self._buffered = [segment for segment in self._buffered if segment.last >= end]
        self._require_more()

    def _spill(self) -> None:
        """Remove the later half of the readings, and note where to open their segments again."""
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
        same_id = 0  # number of readings at the end of `unique` with the same id
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
