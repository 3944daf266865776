"""Reading back: where the segments are that answer a question, and what is in them, in order."""

import logging
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial

from redis.exceptions import RedisError

from iot_api.limits.clients import Client
from iot_cipher.sealed_segment import SealedSegment
from iot_cipher.vault import OpenVault
from iot_models import metrics
from iot_models.errors import FormatError
from iot_models.reading import INT64_MAX, Reading
from iot_models.segment import SegmentBounds
from iot_stores import history
from iot_stores.history import PageRange, ReadFilter
from iot_stores.hot_window import HotWindow
from iot_stores.interval_index import Position
from iot_stores.postgres import Pool
from iot_stores.store_states import report

from .cursor import Cursor
from .merge import BATCH, HELD_BYTES, merge
from .paging import Page
from .pausable_read import (
    Batches,
    LargeSegmentBusyError,
    PausableRead,
    ReadSlots,
)
from .read_order import ASCENDING, DESCENDING, position
from .scan import Scan
from .segment_reader import opener

MOST_HELD = 2_000
"""The last n readings are held in memory up to this n; beyond it they are streamed."""
MOST_HELD_CHARACTERS = 2**20
"""Likewise, characters of their texts."""
LEAST_BYTES = 4 * 2**20
"""What a read may hold of segments that overlap, however many reads are under way."""

_NOBODY = Client("")
_ALL, _FIRST = ReadFilter(), Page()
_log = logging.getLogger(__name__)


class EvictedError(Exception):
    """The hot window no longer has a segment that its index names, or is away."""


class Readings:
    """Reads a vault's readings, by (interrogator timestamp, id), in batches of some thousands.

    Every read raises as it is iterated:
        DecryptionError, FormatError: a segment is damaged; what came before it is right.
        UnavailableError: too many reads are under way.
        psycopg.Error: Postgres is away.
    """

    def __init__(
        self,
        pool: Pool,
        hot_window: HotWindow,
        *,
        shards: int,
        postgres_now: Callable[[], int],
        slots: ReadSlots,
    ) -> None:
        """`postgres_now`, in Unix milliseconds, serves when Redis, whose clock counts, is away."""
        self._pool = pool
        self._hot_window = hot_window
        self._shards = shards
        self._postgres_now = postgres_now
        self._slots = slots
        self._sources = metrics.counter("iot_reads_total")
        self._running = 0

    def select(
        self,
        vault: OpenVault,
        read_filter: ReadFilter,
        page: Page = _FIRST,
        *,
        client: Client = _NOBODY,
    ) -> PausableRead:
        """The readings within a question's bounds, from Postgres."""
        return self._read(client, lambda read: self._select(read, vault, read_filter, page))

    def last_seconds(
        self, vault: OpenVault, seconds: int, page: Page = _FIRST, *, client: Client = _NOBODY
    ) -> PausableRead:
        """What was received in the last `seconds`: from the hot window if it holds all of that.

        Of an answer in parts, the seconds are those before the first.
        """
        return self._read(client, lambda read: self._last_seconds(read, vault, seconds, page))

    def latest(
        self, vault: OpenVault, count: int, page: Page = _FIRST, *, client: Client = _NOBODY
    ) -> PausableRead:
        """The last `count` readings of the vault's order.

        Of an answer in parts, those that were the last before the first part, and what came to lie
        among them since.
        """
        return self._read(client, lambda read: self._latest(read, vault, count, page))

    def max_relative_timestamp(self, vault: OpenVault | None = None) -> int | None:
        """The greatest relative timestamp, of one vault or of all; None when there is none."""
        with self._pool.connection() as connection:
            vault_id = None if vault is None else vault.vault_id
            return history.max_relative_timestamp(connection, vault_id)

    def _read(self, client: Client, plan: Callable[[PausableRead], Batches]) -> PausableRead:
        return PausableRead(self._slots, client, plan)

    def _select(
        self, read: PausableRead, vault: OpenVault, read_filter: ReadFilter, page: Page
    ) -> Batches:
        self._sources.labels("postgres").inc()
        return (yield from read.through(partial(self._part, read, vault, read_filter), page))

    def _part(
        self, read: PausableRead, vault: OpenVault, read_filter: ReadFilter, page: Page
    ) -> Batches:
        """A page from Postgres, within one turn."""
        return (yield from _limited(self._stored(read, vault, read_filter, page.span()), page))

    def _last_seconds(
        self, read: PausableRead, vault: OpenVault, seconds: int, page: Page
    ) -> Batches:
        settled = page.cursor.received_low if page.cursor else None
        begin, found = self._covered(vault, seconds, settled)
        self._sources.labels("postgres" if found is None else "hot_window").inc()
        if found is None:
            begin = begin or max(1, self._postgres_now() - seconds * 1000)
            produce = partial(self._part, read, vault, ReadFilter(received_low=begin))
        else:
            produce = partial(self._hot_part, read, vault, begin, seconds, [found])
        last = yield from read.through(produce, page)
        return last and replace(last, received_low=begin)

    def _hot_part(
        self,
        read: PausableRead,
        vault: OpenVault,
        begin: int,
        seconds: int,
        found: list[list[SegmentBounds]],
        page: Page,
    ) -> Batches:
        """A page from the hot window, within one turn; after a pause it may not cover it any more.

        `found` holds the bounds for the first turn only: a paused read keeps none.
        """
        read_filter = ReadFilter(received_low=begin)
        if not found:
            _, bounds = self._covered(vault, seconds, begin)
            if bounds is None:
                return (yield from self._part(read, vault, read_filter, page))
            found.append(bounds)
        with read.slot(self._slots.hot_window):
            hot = self._hot(read, vault, read_filter, page.span(), found.pop())
            return (yield from _limited(hot, page))

    def _latest(self, read: PausableRead, vault: OpenVault, count: int, page: Page) -> Batches:
        if count <= 0:
            return None
        if page.cursor is not None:
            return (yield from self._select(read, vault, _ALL, page))
        self._sources.labels("postgres").inc()
        newest = partial(self._newest, read, vault)
        if page.descending and page.limit is None and count > MOST_HELD:
            yield from read.through(newest, Page(count, descending=True), _with_end)
            return None
        with closing(read.through(newest, Page(count, descending=True))) as batches:
            tail = _tail(batches, count)
        if tail is None:
            return None
        page = tail.bound(page)
        held = [tail.rows] if tail.rows is not None else []
        del tail

        def produce(page: Page) -> Batches:
            if held:  # after a pause they come from Postgres once more
                return _held(held.pop(), page)
            return self._part(read, vault, _ALL, page)

        return (yield from read.through(produce, page))

    def _newest(self, read: PausableRead, vault: OpenVault, page: Page) -> Batches:
        """The readings from the last one down, as many as the page has."""
        if page.limit is None:  # its end was fixed as the turn before ended
            return (yield from self._part(read, vault, _ALL, page))
        span = replace(page.span(), few=page.limit)
        yield from _first(self._stored(read, vault, _ALL, span), page.limit)
        return None

    def _stored(
        self, read: PausableRead, vault: OpenVault, read_filter: ReadFilter, span: PageRange
    ) -> Generator[list[Reading], None, None]:
        with (
            read.slot(self._slots.postgres),
            self._pool.connection() as connection,
            closing(history.select(connection, vault.vault_id, read_filter, span)) as segments,
        ):
            yield from self._merged(read, segments, vault, read_filter, span)

    def _merged(
        self,
        read: PausableRead,
        segments: Iterable[SealedSegment],
        vault: OpenVault,
        read_filter: ReadFilter,
        span: PageRange,
    ) -> Generator[list[Reading], None, None]:
        order = DESCENDING if span.descending else ASCENDING
        batch = 0 if span.few is None else min(span.few, BATCH)
        with self._one_more_reader() as most_bytes:
            open_segment = opener(vault, read_filter, span, order, read.claim_large_segment)
            scan = Scan(read, order, span)
            yield from merge(
                scan.watched(segments),
                scan.noting(open_segment),
                order,
                batch=batch,
                most_bytes=most_bytes,
                report_overlap=partial(_report_overlap, read, vault),
            )

    @contextmanager
    def _one_more_reader(self) -> Iterator[Callable[[], int]]:
        """All readers of a process share the memory for what overlaps."""
        self._running += 1
        try:
            yield lambda: max(LEAST_BYTES, HELD_BYTES // max(1, self._running))
        finally:
            self._running -= 1

    def _covered(
        self, vault: OpenVault, seconds: int, settled: int | None
    ) -> tuple[int, list[SegmentBounds] | None]:
        """From when, 0 if Redis does not say; which segments, None if the hot window can't say."""
        begin = settled or 0
        try:
            coverage = self._hot_window.covers(vault.shard(self._shards), seconds, settled)
            begin = coverage.begin
            if coverage.held:
                return begin, self._hot_window.bounds(vault.vault_id, begin)
        except RedisError as error:
            report(_log, "the hot window is not used", error)
        except (FormatError, ValueError) as error:  # a writer never wrote it
            _log.error("the hot window is not used, it is damaged: %s", error)
        return begin, None

    def _hot(
        self,
        read: PausableRead,
        vault: OpenVault,
        read_filter: ReadFilter,
        span: PageRange,
        found: list[SegmentBounds],
    ) -> Generator[list[Reading], None, None]:
        """From the hot window as far as it has them, from there on from Postgres.

        Not segment by segment: what was evicted may have been merged with others meanwhile.
        """
        reached = span.after
        try:
            for batch in self._merged(
                read, self._kept(vault, span, found), vault, read_filter, span
            ):
                reached = position(batch[-1])
                yield batch
                del batch  # its memory must not stay while the next one is produced
        except EvictedError as error:
            _log.info("a read goes on from Postgres: %s", error)
        else:
            return
        yield from self._stored(read, vault, read_filter, replace(span, after=reached))

    def _kept(
        self, vault: OpenVault, span: PageRange, found: list[SegmentBounds]
    ) -> Iterator[SealedSegment]:
        order = DESCENDING if span.descending else ASCENDING
        if span.after is not None:
            after = order.place(span.after)
            found = [bounds for bounds in found if order.end(bounds) > after]
        found.sort(key=order.begin)
        payloads = iter(self._hot_window.payloads(vault.vault_id, found))
        for bounds in found:
            try:
                payload = next(payloads)
            except RedisError as error:
                raise EvictedError(f"Redis is away: {error}") from None
            if payload is None:
                raise EvictedError("a segment was evicted from the hot window")
            yield SealedSegment(vault.vault_id, bounds, payload)


def _report_overlap(read: PausableRead, vault: OpenVault, reading_id: int) -> None:
    """Count and log that two segments have ids in common, once a read."""
    if read.found_overlap:
        return
    read.found_overlap = True
    metrics.counter("iot_damaged_total").labels("overlap").inc()
    why = "a row was put back, or the database was rolled back"
    _log.error("segments of vault %s have ids in common (%d): %s", vault.vault_id, reading_id, why)


def _limited(batches: Generator[list[Reading], None, None], page: Page) -> Batches:
    """As many readings as the page has, and where to go on if there are more."""
    with closing(batches):
        left = page.limit
        if left is None:
            yield from batches
            return None
        after = page.cursor
        for batch in batches:
            if not left:
                return after
            after, count = _cursor(batch[min(left, len(batch)) - 1], page), len(batch)
            yield batch[:left]
            del batch  # its memory must not stay while the next one is produced
            if count > left:
                return after
            left -= count
    return None


def _first(
    batches: Generator[list[Reading], None, None], count: int
) -> Generator[list[Reading], None, None]:
    with closing(batches):
        for batch in batches:
            left = count - len(batch)
            yield batch[:count]
            del batch  # its memory must not stay while the next one is produced
            count = left
            if count <= 0:
                return


def _cursor(last: Reading, page: Page) -> Cursor:
    until = page.cursor.until if page.cursor else None
    return Cursor(position(last), page.descending, until)


def _with_end(page: Page, batch: list[Reading], rest: Batches) -> Page:
    """The page with its last position in the place of its limit."""
    last = batch[-1]
    try:
        for later in rest:
            last = later[-1]
    except LargeSegmentBusyError:
        return page  # readings stored from now on may then count among the last
    cursor = page.cursor or Cursor((INT64_MAX, 2**53 - 1), descending=True)
    return replace(page, limit=None, cursor=replace(cursor, until=position(last)))


@dataclass(frozen=True, slots=True)
class _Tail:
    """The last readings of a vault: their ends, and themselves if they fit in memory."""

    first: Position
    last: Position
    rows: list[Reading] | None
    """Rising."""

    def bound(self, page: Page) -> Page:
        """The page within these ends."""
        order = DESCENDING if page.descending else ASCENDING
        begin, until = (self.last, self.first) if page.descending else (self.first, self.last)
        after = order.just_before(order.place(begin))
        return replace(page, cursor=Cursor(after, page.descending, until))


def _tail(batches: Batches, count: int) -> _Tail | None:
    """The last `count` readings, given those from the last one down."""
    rows: list[Reading] | None = [] if count <= MOST_HELD else None
    first = last = None
    size = 0
    for batch in batches:
        last = last or position(batch[0])
        first = position(batch[-1])
        if rows is not None:
            size += sum(len(reading.freeform) for reading in batch)
            rows = rows + batch if size <= MOST_HELD_CHARACTERS else None
        del batch  # its memory must not stay while the next one is produced
    if first is None or last is None:
        return None
    if rows is not None:
        rows.reverse()
    return _Tail(first, last, rows)


def _held(rows: list[Reading], page: Page) -> Batches:
    """A page of readings that are in memory, rising."""
    if page.descending:
        rows.reverse()
    part = rows[: page.limit]
    yield part
    return None if len(part) == len(rows) else _cursor(part[-1], page)
