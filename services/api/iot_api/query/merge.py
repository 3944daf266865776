"""Merging segments whose times overlap into one stream in order, in bounded memory."""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from heapq import heappop, heappush
from operator import attrgetter

from iot_cipher.sealed_segment import SealedSegment
from iot_models.reading import Reading
from iot_stores.interval_index import Position

from .id_ranges import IdRanges, Overlap
from .read_order import ASCENDING, Order
from .segment_rows import Rows

BATCH = 4096
"""Readings handed on at a time, about."""
BATCH_BYTES = 2 * 2**20
"""What they take in memory, about, if they are large."""
LONE_BYTES = 2**18
"""A segment of this size that overlaps no other is handed on without being gathered first."""
HELD_BYTES = 16 * 2**20
"""What the readings of segments that overlap may take, about, opened and waiting for their turn."""

_id_of = attrgetter("id")

OpenSegment = Callable[[SealedSegment], Rows]


def merge(
    segments: Iterable[SealedSegment],
    open_segment: OpenSegment,
    order: Order = ASCENDING,
    *,
    batch: int = 0,
    most_bytes: Callable[[], int] = lambda: HELD_BYTES,
    report_overlap: Callable[[int], None] = lambda _: None,
) -> Iterator[list[Reading]]:
    """The readings of all segments in order, in batches of about `batch` (0: `BATCH`).

    `segments` come in the order of their begins, so whatever lies before the next one's begin is
    complete. Held are the segments that overlap the place one is at: sealed, and opened as far as
    `most_bytes` of readings go. What lies beyond is let go of, and its segment comes once more as
    if it began there. A segment alone is never too large.

    A reading that is in two segments comes once. `report_overlap` is called with its id, or that of
    the first one of many, when two segments have ids in common. If two readings with one id differ,
    both come.
    """
    held = _Held(open_segment, order, batch or BATCH, most_bytes, report_overlap)
    ranges = IdRanges()
    for segment in segments:
        begin = order.begin(segment.bounds)
        yield from held.come_to(begin)
        overlap = ranges.add(segment.bounds)
        if overlap is not Overlap.NONE:
            held.expect_duplicates()
        if overlap is Overlap.CERTAIN:
            report_overlap(segment.bounds.first_id)
        held.add(segment)
    yield from held.come_to(None)


@dataclass(slots=True, eq=False)
class _Begun:
    """A segment of which readings are held: from which to which key, and what was let go of."""

    segment: SealedSegment
    first: Position
    last: Position
    rest: Position | None = None
    """Nothing that was let go of comes before this key; None: nothing was."""


class _Held:
    def __init__(
        self,
        open_segment: OpenSegment,
        order: Order,
        batch: int,
        most_bytes: Callable[[], int],
        report_overlap: Callable[[int], None],
    ) -> None:
        self._open = open_segment
        self._order = order
        self._batch = self._enough = batch
        self._most_bytes = most_bytes
        self._report_overlap = report_overlap
        self._may_repeat = False
        """Whether the readings held may be in two segments."""
        self._lone: Rows | None = None
        """Of a segment that overlaps none before it: most overlap none after it, either."""
        self._rows: list[Reading] = []
        self._sorted = True
        self._bytes = 0
        self._enough_bytes = BATCH_BYTES
        self._begun: list[_Begun] = []
        self._rests: list[tuple[Position, int, _Begun]] = []
        """A heap; what was given another key since is in it twice."""
        self._cut: Position | None = None
        """As long as one is before it, readings from this key on are let go of."""

    def expect_duplicates(self) -> None:
        """Look for duplicates, for the next segment may hold readings of those before it."""
        self._may_repeat = True

    def come_to(self, begin: Position | None) -> Iterator[list[Reading]]:
        """Readings that no segment to come, from `begin` on, may come before; None: all.

        Without a reading when too few are there to be worth it.
        """
        while (due := self._due(begin)) is not None:
            key, segment = due
            yield from self._before(key)
            self.add(segment, key)
        yield from self._before(begin)

    def add(self, segment: SealedSegment, since: Position | None = None) -> None:
        """Open a segment; of it the readings from `since` on."""
        rows = self._open(segment)
        if since is not None:
            rows = rows.since(since)
        if not len(rows):
            return
        enough = len(rows) >= self._batch or rows.bytes >= LONE_BYTES
        if not self._rows and since is None and enough and self._cut is None:
            self._lone = rows
            self._begun = [_Begun(segment, rows.first_key, rows.last_key)]
            return
        self._take(segment, rows)
        if self._bytes > self._most_bytes() and len(self._begun) > 2:
            self._let_go()

    def _take(self, segment: SealedSegment, rows: Rows) -> None:
        begun = _Begun(segment, rows.first_key, rows.last_key)
        if self._cut is not None and begun.last >= self._cut:
            self._put_off(begun, rows.since(self._cut).first_key)
            rows = rows.before(self._cut)
            if not len(rows):
                return
        readings, key = rows.readings(), self._order.key
        if self._rows and key(readings[0]) < key(self._rows[-1]):
            self._sorted = False
        self._rows += readings
        self._bytes += rows.bytes
        self._begun.append(begun)

    def _put_off(self, begun: _Begun, rest: Position) -> None:
        begun.rest = begun.last = rest
        heappush(self._rests, (rest, id(begun), begun))

    def _due(self, begin: Position | None) -> tuple[Position, SealedSegment] | None:
        """The next segment that comes once more, and from where on, if it comes before `begin`."""
        while self._rests and (begin is None or self._rests[0][0] <= begin):
            key, _, begun = heappop(self._rests)
            if begun.rest == key:
                begun.rest = None
                begun.last = begun.first  # so that it is not put off again for what comes now
                return key, begun.segment
        return None

    def _before(self, begin: Position | None) -> Iterator[list[Reading]]:
        full = self._cut is not None and (begin is None or begin >= self._cut)
        if full:
            self._cut = None
        if self._lone is not None:
            yield from self._part(self._lone, begin)
        elif self._rows and (full or begin is None or self._has_enough()):
            yield from self._hand_on(begin)

    def _has_enough(self) -> bool:
        return len(self._rows) >= self._enough or self._bytes >= self._enough_bytes

    def _need_more(self) -> None:
        """Sort again once as much has come as was left: so it pays."""
        self._enough = max(self._batch, 2 * len(self._rows))
        self._enough_bytes = max(BATCH_BYTES, 2 * self._bytes)

    def _part(self, lone: Rows, begin: Position | None) -> Iterator[list[Reading]]:
        """Hand on what of a lone segment comes before `begin`, and hold the rest."""
        self._lone = None
        head = lone if begin is None else lone.before(begin)
        if len(head):
            yield from head.runs()
        rest = lone.first(0) if begin is None else lone.since(begin)
        self._rows = rest.readings()
        self._begun = self._begun if len(rest) else []
        self._bytes = rest.bytes
        self._need_more()

    def _hand_on(self, end: Position | None) -> Iterator[list[Reading]]:
        self._sort()
        rows, key = self._rows, self._order.key
        complete = len(rows) if end is None else bisect_left(rows, end, key=key)
        if complete:
            yield self._once(rows[:complete]) if self._may_repeat else rows[:complete]
            self._rows = rows[complete:]
            self._may_repeat &= bool(self._rows)
            self._bytes = self._bytes * len(self._rows) // len(rows)
        if end is not None:
            self._begun = [each for each in self._begun if each.last >= end]
        self._need_more()

    def _let_go(self) -> None:
        """Keep the first half of the readings."""
        self._sort()
        keep = len(self._rows) // 2
        if not keep:
            return
        cut = self._order.key(self._rows[keep])
        keep = bisect_left(self._rows, cut, key=self._order.key)  # of one id, keep all or none
        if not keep:
            return
        self._cut = cut
        del self._rows[keep:]
        self._bytes //= 2
        for each in self._begun:
            if each.last >= cut:
                self._put_off(each, max(cut, each.first))
        self._begun = [each for each in self._begun if each.first < cut]

    def _sort(self) -> None:
        if not self._sorted:
            self._rows.sort(key=self._order.key)
            self._sorted = True

    def _once(self, rows: list[Reading]) -> list[Reading]:
        """The readings without duplicates, which stand side by side."""
        if len(set(map(_id_of, rows))) == len(rows):
            return rows
        once: list[Reading] = []
        same = 0  # readings at the end of `once` with the id of the last one
        for reading in rows:
            if not once or once[-1].id != reading.id:
                same = 0
            else:
                self._report_overlap(reading.id)
                if reading in once[-same:]:
                    continue
            once.append(reading)
            same += 1
        return once
