"""Merging segments whose times overlap into one stream in order, in bounded memory."""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator

from iot_cipher.sealed_segment import SealedSegment
from iot_models.reading import Reading
from iot_stores.reach import Position

from .order import ASCENDING, Order
from .rows import Rows

BATCH = 4096
"""Readings handed on at a time, about."""
HELD_BYTES = 32 * 2**20
"""What the readings of segments that overlap may take, about, opened and waiting for their turn."""

OpenSegment = Callable[[SealedSegment], Rows]


def merge(
    segments: Iterable[SealedSegment],
    open_segment: OpenSegment,
    order: Order = ASCENDING,
    *,
    batch: int = 0,
    most_bytes: Callable[[], int] = lambda: HELD_BYTES,
) -> Iterator[list[Reading]]:
    """The readings of all segments in order, in batches of about `batch` (0: `BATCH`).

    `segments` come in the order of their begins, so whatever lies before the next one's begin is
    complete. Held are the segments that overlap the place one is at: sealed, and opened as far as
    `most_bytes` of readings go. What lies beyond is let go of, and opened once more when it is its
    turn. A segment alone is never too large.
    """
    held = _Held(open_segment, order, batch or BATCH, most_bytes)
    for segment in segments:
        yield from held.before(order.begin(segment.bounds))
        held.add(segment)
    yield from held.before(None)


class _Held:
    def __init__(
        self,
        open_segment: OpenSegment,
        order: Order,
        batch: int,
        most_bytes: Callable[[], int],
    ) -> None:
        self._open = open_segment
        self._order = order
        self._batch = self._enough = batch
        self._most_bytes = most_bytes
        self._lone: Rows | None = None
        """Of a segment that overlaps none before it: most overlap none after it, either."""
        self._rows: list[Reading] = []
        self._sorted = True
        self._bytes = 0
        self._begun: list[SealedSegment] = []
        """The segments that reach the place one is at, or beyond."""
        self._cut: Position | None = None
        """The key from which on rows are let go of."""

    def before(self, begin: Position | None) -> Iterator[list[Reading]]:
        """Readings that no segment to come, from `begin` on, may come before; None: all.

        Without a reading when too few are there to be worth it.
        """
        if self._lone is not None:
            yield from self._part(self._lone, begin)
            return
        while self._is_worth_it(begin):
            cut = self._cut
            end = begin if cut is None or (begin is not None and begin < cut) else cut
            yield from self._hand_on(end)
            if end != cut or cut is None:
                break
            self._go_beyond(cut)

    def add(self, segment: SealedSegment, since: Position | None = None) -> None:
        """Open one more segment; of it the readings from `since` on."""
        rows = self._open(segment)
        if since is not None:
            rows = rows.since(since)
        if self._cut is not None:
            rows = rows.before(self._cut)
        if not self._begun and since is None and len(rows) >= self._batch:
            self._lone = rows
        else:
            self._take(rows)
        self._begun.append(segment)
        if self._bytes > self._most_bytes() and len(self._begun) > 2:
            self._let_go()

    def _take(self, rows: Rows) -> None:
        readings, key = rows.readings(), self._order.key
        if self._rows and readings and key(readings[0]) < key(self._rows[-1]):
            self._sorted = False
        self._rows += readings
        if self._begun:
            self._bytes += rows.bytes

    def _part(self, lone: Rows, begin: Position | None) -> Iterator[list[Reading]]:
        """Hand on what of a lone segment comes before `begin`, and hold the rest."""
        self._lone = None
        head = lone if begin is None else lone.before(begin)
        if len(head):
            yield from head.runs()
        rest = lone.first(0) if begin is None else lone.since(begin)
        if not len(rest):
            self._begun = []
            return
        self._rows = rest.readings()
        self._enough = max(self._batch, 2 * len(rest))

    def _is_worth_it(self, begin: Position | None) -> bool:
        if begin is None:
            return bool(self._rows) or self._cut is not None
        return len(self._rows) >= self._enough or (self._cut is not None and self._cut <= begin)

    def _hand_on(self, end: Position | None) -> Iterator[list[Reading]]:
        self._sort()
        rows, key = self._rows, self._order.key
        complete = len(rows) if end is None else bisect_left(rows, end, key=key)
        if complete:
            yield rows[:complete]
            self._rows = rows[complete:]
            self._bytes = self._bytes * len(self._rows) // len(rows)
        if end is not None:
            self._begun = [each for each in self._begun if self._order.end(each.bounds) >= end]
        # Sorting again pays once as much as was left has come in addition.
        self._enough = max(self._batch, 2 * len(self._rows))

    def _go_beyond(self, cut: Position) -> None:
        """Open again what was let go of; all that was held is handed on."""
        begun, self._begun, self._cut, self._bytes = self._begun, [], None, 0
        for each in begun:
            self.add(each, cut)

    def _let_go(self) -> None:
        """Keep the first half of the readings."""
        self._sort()
        keep = len(self._rows) // 2
        if keep:
            self._cut = self._order.key(self._rows[keep])
            del self._rows[keep:]
            self._bytes //= 2

    def _sort(self) -> None:
        if not self._sorted:
            self._rows.sort(key=self._order.key)
            self._sorted = True
