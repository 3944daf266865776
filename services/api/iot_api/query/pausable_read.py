"""Reads that hold a Postgres connection and memory only while they produce readings.

A client may stop reading in the middle of a response, and continue at any later time. So a read
produces its readings in turns. A turn holds a slot, a Postgres connection with its transaction, and
the merge buffer. The turn ends when the client stops reading (`PausableRead.pause`), or after a
time limit. The next turn opens a new transaction and continues behind the last sent reading, or at
the reading whose text is partly sent. Readings that are stored between two turns appear if their
position is still ahead. Every other reading appears exactly once.
"""

import logging
import time
from abc import abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from typing import overload

from iot_api.limits.clients import Client
from iot_api.limits.fair_slots import FairSlots
from iot_cipher.encryption import SealedSegment
from iot_models import tracing
from iot_models.errors import Refusal, TooManyRequestsError, UnavailableError
from iot_models.reading import Reading
from iot_stores.history import PageRange
from iot_stores.interval_index import Position

from .merge import ASCENDING, DESCENDING, OpenSegment, Order, Rows, position

FIRST_TURN_SECONDS = 3.0
"""Longest wait for a slot before the read has begun. A read has begun once it has produced a batch,
or has searched for a whole turn without finding a reading."""
NEXT_TURN_SECONDS = 60.0
"""Longest wait of a read that has begun, for a slot or for the slot for large segments."""
LARGE_SECONDS = 20.0
"""Longest wait for the slot for large segments before the read has begun."""
SLICE_SECONDS = 0.5
"""A turn that lasted this long ends if another read waits for a slot."""
TURN_SECONDS = 3.0
"""A turn that lasted this long ends, so that no transaction stays open for long."""
HOT_WINDOW_SLOTS = 4
_MOST_WAITING, _MOST_WAITING_PER_CLIENT = 256, 64
_REFUSAL = "too many reads are under way; try again"


@dataclass(frozen=True, slots=True)
class Cursor:
    """The position behind the last reading of a page, and the bounds that the first page fixed."""

    after: Position
    descending: bool = False
    until: Position | None = None
    """The position at which the read ends; None if the first page did not fix it."""
    received_low: int = 0
    """Earliest time of receipt, in Unix milliseconds; 0: not limited."""


@dataclass(frozen=True, slots=True)
class Page:
    """The part of an answer to return: up to `limit` readings behind the cursor, in one direction.

    The default is the complete answer, in ascending order.
    """

    limit: int | None = None
    descending: bool = False
    cursor: Cursor | None = None

    def page_range(self) -> PageRange:
        """Return the range to read from a store.

        It has one reading more than the limit, to know whether another page follows.
        """
        limit = None if self.limit is None else self.limit + 1
        if self.cursor is None:
            return PageRange(descending=self.descending, limit=limit)
        return PageRange(self.cursor.after, self.cursor.until, self.descending, limit)

    def behind(self, last: Position, count: int) -> "Page":
        """Return the rest of this page, after `count` readings that end at position `last`."""
        limit = None if self.limit is None else self.limit - count
        if self.cursor is None:
            cursor = Cursor(last, self.descending)
        else:
            cursor = replace(self.cursor, after=last)
        return replace(self, limit=limit, cursor=cursor)


Batches = Generator[Sequence[Reading], None, Cursor | None]
"""Yields batches of some thousands of readings; returns the cursor of the next page, if any."""
Produce = Callable[[Page], Batches]
"""Produces a page within one turn."""
FixEnd = Callable[[Page, Sequence[Reading], Batches], Page]
"""Replaces the limit of a page by the position of its last reading, if possible. Takes the page,
its current batch and its remaining batches. The turn lasts until this function returns."""

_log = logging.getLogger(__name__)


class LargeSegmentBusyError(Exception):
    """Another read holds the slot for large segments."""


class NothingFoundError(Exception):
    """Raised if a turn must end, but has found no reading yet. The next turn begins behind
    `position`."""

    def __init__(self, position: Position) -> None:
        super().__init__("nothing was found so far")
        self.position = position


class ReadSlots:
    """Limits how many reads of a process produce readings at the same time."""

    def __init__(self, pool_size: int) -> None:
        # One connection stays free for short queries: new passwords, the audit log, `/maxtime`.
        self.postgres = _slots(max(1, pool_size - 1))
        # Separate slots, so that the hot window answers while reads wait for Postgres.
        self.hot_window = _slots(HOT_WINDOW_SLOTS)
        self.large_segment = _slots(1)
        self.next_batch = tracing.wrap("produce a batch of readings", _next_batch)


def _next_batch(producer: Batches) -> Sequence[Reading]:
    return next(producer)


def _slots(count: int) -> FairSlots:
    return FairSlots(
        count,
        max_waiting=_MOST_WAITING,
        max_waiting_per_client=_MOST_WAITING_PER_CLIENT,
        refusal=_REFUSAL,
        reason=Refusal.READS,
    )


class PausableRead:
    """The readings of one response, as batches. Iterate over them once.

    Call `pause` only between two batches.
    """

    def __init__(
        self, slots: ReadSlots, client: Client, plan: Callable[["PausableRead"], Batches]
    ) -> None:
        """`plan` gets this read and returns its batches. `plan` calls `through` to produce them."""
        self._slots = slots
        self._client = client
        self._batches = plan(self)
        self._page = Page()
        self._after: Position | None = None
        """Position of the last sent reading of this page."""
        self._given = 0
        """Number of sent readings of this page."""
        self._batch: Sequence[Reading] = []
        self._producer: Batches | None = None
        self._fix_end: FixEnd | None = None
        self._begun = False
        self._turn_began = 0.0
        self._held: list[FairSlots] = []
        """The kinds of slots that this read holds: one slot of each."""
        self._large = ExitStack()
        """Holds the slot for large segments, if the turn has it."""

    def __iter__(self) -> Batches:
        return self._batches

    @property
    def is_due(self) -> bool:
        """Whether the turn should end, because of its length or because another read waits."""
        if self._producer is None:
            return False
        lasted = time.monotonic() - self._turn_began
        if lasted < SLICE_SECONDS:
            return False
        return lasted > TURN_SECONDS or any(slots.waiting for slots in self._held)

    def pause(self, used: int | None = None, *, cut: bool = False) -> None:
        """End the turn. The next turn continues behind the last used reading. Idempotent.

        `used` says how many readings of the last batch were used; None: all. `cut`: the next
        reading was used in part, and the next turn begins with it. Never raises: a read that can't
        continue raises when the next batch is requested.
        """
        try:
            self._pause(len(self._batch) if used is None else used, cut=cut)
        except Exception:  # noqa: BLE001 - the worker can do nothing about it
            _log.exception("a read could not be paused cleanly")

    def through(self, produce: Produce, page: Page, fix_end: FixEnd | None = None) -> Batches:
        """Produce a page in as many turns as needed.

        Each turn calls `produce` with the rest of the page. The first pause calls `fix_end`, which
        may bound the rest of the page by a position instead of a number of readings.
        """
        self._page, self._after, self._given, self._fix_end = page, None, 0, fix_end
        try:
            while True:
                busy = False
                try:
                    self._producer = produce(self._page)
                    finished, cursor = yield from self._turn()
                    if finished:
                        return cursor
                except NothingFoundError as error:
                    self._begun = True  # the next turn continues this read, and must get a slot
                    self._advance_page()
                    self._end_turn()
                    self._page = self._page.behind(error.position, 0)
                except LargeSegmentBusyError:
                    busy = True
                    self._advance_page()
                    self._end_turn()
                # Wait after the except clause: its traceback would keep the merge buffer alive.
                if busy:  # wait without a slot: the read with the large segment may need one
                    seconds = NEXT_TURN_SECONDS if self._begun else LARGE_SECONDS
                    self._enter(self._large, self._slots.large_segment, seconds)
        finally:
            self._fix_end, self._batch = None, []
            self._end_turn()

    def _turn(self) -> Generator[Sequence[Reading], None, tuple[bool, Cursor | None]]:
        """Yield the batches of a turn; return whether the page is complete, and the next cursor."""
        self._turn_began = time.monotonic()
        first = True
        while self._producer is not None:
            try:
                self._batch = self._slots.next_batch(self._producer)
            except StopIteration as end:
                return True, end.value
            if first:  # opening a large segment may take longer than `SLICE_SECONDS`
                self._turn_began, first = time.monotonic(), False
            self._begun = True
            yield self._batch
            if self.is_due:
                self._pause(len(self._batch))
            self._use(len(self._batch))
        return False, None

    def _use(self, count: int) -> None:
        if count:
            self._after = _end_of(self._batch, count)
            self._given += count
        self._batch = []

    def _skip_to(self, reading: Reading) -> None:
        """Begin the next turn with `reading`: leave out new readings before `reading`."""
        order = DESCENDING if self._page.descending else ASCENDING
        before = order.just_before(order.key(reading))
        # `_after` may be the position of `reading`: damaged segments may have one position twice.
        self._after = max(self._after or before, before, key=order.key_of)

    def _advance_page(self) -> None:
        if self._after is not None:
            self._page = self._page.behind(self._after, self._given)
            self._after, self._given = None, 0

    def _pause(self, used: int, *, cut: bool = False) -> None:
        batch = self._batch
        self._use(used)
        if cut and batch:
            self._skip_to(batch[used])
        self._advance_page()
        try:
            if self._producer is not None and self._fix_end is not None and batch:
                fix_end, self._fix_end = self._fix_end, None
                self._page = fix_end(self._page, batch, self._producer)
        finally:
            del batch  # free its memory before other reads run
            self._end_turn()

    def _end_turn(self) -> None:
        producer, self._producer = self._producer, None
        try:
            if producer is not None:
                producer.close()
        finally:
            self._large.close()

    @contextmanager
    def slot(self, slots: FairSlots) -> Iterator[None]:
        """Hold a slot for a turn.

        Raises:
            UnavailableError: no slot was free in time.
        """
        with ExitStack() as stack:
            self._enter(stack, slots, NEXT_TURN_SECONDS if self._begun else FIRST_TURN_SECONDS)
            yield

    def claim_large_segment(self) -> None:
        """Hold the slot for large segments until the turn ends.

        Raises:
            LargeSegmentBusyError: another read holds the slot.
        """
        if self._slots.large_segment not in self._held:
            try:
                self._enter(self._large, self._slots.large_segment, 0)
            except UnavailableError:
                raise LargeSegmentBusyError from None

    def _enter(self, stack: ExitStack, slots: FairSlots, seconds: float) -> None:
        slot = slots.slot(self._client, seconds=seconds, always_queue=self._begun)
        try:
            stack.enter_context(slot)
        except TooManyRequestsError as error:
            raise UnavailableError(_REFUSAL, retry_after=1) from error
        self._held.append(slots)
        stack.callback(self._held.remove, slots)


class ColumnRun(Sequence[Reading]):
    """A batch that holds columns. A `Reading` is created only when it is accessed."""

    @abstractmethod
    def position_of(self, index: int) -> Position:
        """Return the position of the reading at `index`."""


class SegmentBatch(Sequence[Reading]):
    """A batch of all wanted rows of one segment.

    The next batch may have readings with positions before the last position of this batch.
    """

    def __init__(self, rows: Rows, after: Position) -> None:
        """`after` is the position behind which the next turn continues if this turn ends now.

        This batch and the earlier batches have all readings up to `after`, and maybe some readings
        behind `after`. `UnorderedRead` remembers their ids, so that the next turn does not yield
        the same readings again.
        """
        self.rows = rows
        self.after = after

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> Reading: ...

    @overload
    def __getitem__(self, index: slice) -> list[Reading]: ...

    def __getitem__(self, index: int | slice) -> Reading | list[Reading]:
        return self.rows.readings()[index]


def _end_of(batch: Sequence[Reading], count: int) -> Position:
    """Return the position behind which a read continues after `count` readings of a batch."""
    if isinstance(batch, SegmentBatch):
        return batch.after
    if isinstance(batch, ColumnRun):
        return batch.position_of(count - 1)
    end: Position = position(batch[count - 1])
    return end


class Scan:
    """A search within a turn. It ends the turn if it finds nothing for too long.

    A pause ends a turn between two batches, but a read that finds nothing has no batch. Without a
    scan, such a read would keep its slot and its transaction until it has opened the whole vault.
    """

    def __init__(self, read: PausableRead, order: Order, page_range: PageRange) -> None:
        self._read = read
        self._order = order
        self._after = None if page_range.after is None else order.key_of(page_range.after)
        self._found = False
        self._reopened = self._new = 0
        """This turn continues behind a position. `_reopened` counts the segments that begin at or
        before this position: an earlier turn or page has opened these segments already. `_new`
        counts all other segments."""

    def watched(self, segments: Iterable[SealedSegment]) -> Iterator[SealedSegment]:
        """Yield the segments.

        Raises:
            NothingFoundError: the turn should end, and no reading was found. Raised only if most
                segments of the turn are new (no earlier turn has opened them), so that each turn
                makes progress.
        """
        for segment in segments:
            begin = self._order.begin(segment.bounds)
            if self._after is not None and begin <= self._after:
                self._reopened += 1
            elif not self._found and self._new > self._reopened and self._read.is_due:
                raise NothingFoundError(self._order.just_before(begin))
            else:
                self._new += 1
            yield segment

    def noting(self, open_segment: OpenSegment) -> OpenSegment:
        """Wrap `open_segment`: this scan notes when `open_segment` returns at least one row."""

        def open_and_note(segment: SealedSegment) -> Rows:
            rows = open_segment(segment)
            self._found = self._found or len(rows) > 0
            return rows

        return open_and_note


def limited(batches: Generator[Sequence[Reading], None, None], page: Page) -> Batches:
    """Yield the readings up to the limit of the page; return the next page's cursor, if any."""
    with closing(batches):
        left = page.limit
        if left is None:
            yield from batches
            return None
        after = page.cursor
        for batch in batches:
            if not left:
                return after
            after, count = cursor_behind(batch[min(left, len(batch)) - 1], page), len(batch)
            yield batch[:left]
            del batch  # free its memory before the next one is produced
            if count > left:
                return after
            left -= count
    return None


def first_readings(
    batches: Generator[Sequence[Reading], None, None], count: int
) -> Generator[Sequence[Reading], None, None]:
    """Yield the first `count` readings.

    `count` is 0 if the previous turn yielded the last reading of the page.
    """
    with closing(batches):
        while count > 0 and (batch := next(batches, None)) is not None:
            yield batch[:count]
            count -= len(batch)
            del batch  # free its memory before the next one is produced


def cursor_behind(last: Reading, page: Page) -> Cursor:
    """Return the cursor behind the last reading of a page."""
    until = page.cursor.until if page.cursor else None
    return Cursor(position(last), page.descending, until)
