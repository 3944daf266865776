"""Reads of a vault: find its segments in Postgres or the hot window, and merge their readings."""

import logging
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial

from redis.exceptions import RedisError

from iot_api.limits.clients import Client
from iot_cipher.encryption import OpenVault, SealedSegment
from iot_models import metrics, tracing
from iot_models.errors import FormatError
from iot_models.reading import INT64_MAX, Reading
from iot_models.segment import SegmentBounds
from iot_stores import history
from iot_stores.history import PageRange, ReadFilter
from iot_stores.hot_window import HotWindow
from iot_stores.interval_index import Position
from iot_stores.postgres import Pool
from iot_stores.store_states import report

from .merge import BATCH, BUFFER_BYTES, merge
from .pausable_read import (
    Batches,
    Cursor,
    LargeSegmentBusyError,
    Page,
    PausableRead,
    ReadSlots,
    Scan,
    cursor_behind,
    first_readings,
    limited,
)
from .segment_reader import ASCENDING, DESCENDING, Rows, opener, position
from .unordered_read import Combine, UnorderedRead

MAX_BUFFERED = 2_000
"""Up to this n, the last n readings are kept in memory; beyond it they are streamed."""
MAX_BUFFERED_CHARACTERS = 2**20
"""Limit of their texts, in characters."""
MIN_BYTES = 4 * 2**20
"""Merge buffer that every read gets, however many reads are under way."""

_NOBODY = Client("")
_ALL, _FIRST = ReadFilter(), Page()
_log = logging.getLogger(__name__)


class EvictedError(Exception):
    """The hot window has lost a segment that its index names, or Redis is away."""


class Readings:
    """The readings of vaults, by (interrogator timestamp, id), in batches of some thousands.

    Every read raises while it is iterated:
        DecryptionError, FormatError: a segment is damaged; all readings yielded before are right.
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
        """Take the stores. `postgres_now` returns Unix milliseconds. It replaces Redis's clock,
        which stamps the time of receipt, while Redis is away.
        """
        self._pool = pool
        self._hot_window = hot_window
        self._coverage = tracing.wrap("look into the hot window", hot_window.coverage)
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
        rows: type[Rows] = Rows,
    ) -> PausableRead:
        """Read the readings within the bounds of a filter, from Postgres."""
        return self._read(client, lambda read: self._select(read, vault, read_filter, page), rows)

    def unordered(
        self,
        vault: OpenVault,
        read_filter: ReadFilter,
        state: UnorderedRead,
        *,
        client: Client = _NOBODY,
        rows: type[Rows] = Rows,
    ) -> PausableRead:
        """Read like `select`, but in any order, one batch a segment."""
        plan = partial(self._select, vault=vault, read_filter=read_filter, combine=state.batches)
        return self._read(client, plan, rows)

    def last_seconds(
        self,
        vault: OpenVault,
        seconds: int,
        page: Page = _FIRST,
        *,
        within: ReadFilter = _ALL,
        client: Client = _NOBODY,
    ) -> PausableRead:
        """Read the readings received in the last `seconds`, from the hot window if it covers them.

        `within`: of these, only the readings that pass this filter.

        On later pages, the window is the one of the first page.
        """
        return self._read(
            client, lambda read: self._last_seconds(read, vault, seconds, within, page)
        )

    def latest(
        self,
        vault: OpenVault,
        count: int,
        page: Page = _FIRST,
        *,
        within: ReadFilter = _ALL,
        client: Client = _NOBODY,
    ) -> PausableRead:
        """Read the last `count` readings in the vault's order that pass the filter `within`.

        Later pages continue within the readings that were the last ones at the first page, and
        include readings that were stored between them since.
        """
        return self._read(client, lambda read: self._latest(read, vault, count, within, page))

    def max_relative_timestamp(self, vault: OpenVault | None = None) -> int | None:
        """Return the greatest relative timestamp of one vault or of all; None if there is none."""
        vault_id = None if vault is None else vault.vault_id
        return self._pool.run_idempotent(
            lambda connection: history.max_relative_timestamp(connection, vault_id)
        )

    def _read(
        self, client: Client, plan: Callable[[PausableRead], Batches], rows: type[Rows] = Rows
    ) -> PausableRead:
        return PausableRead(self._slots, client, plan, rows)

    def _select(
        self,
        read: PausableRead,
        vault: OpenVault,
        read_filter: ReadFilter,
        page: Page = _FIRST,
        combine: Combine | None = None,
    ) -> Batches:
        self._sources.labels("postgres").inc()
        produce = partial(self._stored_page, read, vault, read_filter, combine=combine)
        return (yield from read.through(produce, page))

    def _stored_page(
        self,
        read: PausableRead,
        vault: OpenVault,
        read_filter: ReadFilter,
        page: Page,
        combine: Combine | None = None,
    ) -> Batches:
        """Produce a page from Postgres, within one turn."""
        stored = self._stored(read, vault, read_filter, page.page_range(), combine)
        return (yield from limited(stored, page))

    def _last_seconds(
        self,
        read: PausableRead,
        vault: OpenVault,
        seconds: int,
        within: ReadFilter,
        page: Page,
    ) -> Batches:
        fixed_begin = page.cursor.received_low if page.cursor else None
        begin, found = self._covered(vault, seconds, fixed_begin)
        self._sources.labels("postgres" if found is None else "hot_window").inc()
        if found is None:
            begin = begin or max(1, self._postgres_now() - seconds * 1000)
        read_filter = replace(within, received_low=max(begin, within.received_low))
        if found is None:
            produce = partial(self._stored_page, read, vault, read_filter)
        else:
            window = begin, seconds
            produce = partial(self._hot_page, read, vault, read_filter, window, [found])
        last = yield from read.through(produce, page)
        return last and replace(last, received_low=begin)

    def _hot_page(
        self,
        read: PausableRead,
        vault: OpenVault,
        read_filter: ReadFilter,
        window: tuple[int, int],
        found: list[list[SegmentBounds]],
        page: Page,
    ) -> Batches:
        """Produce a page from the hot window, within one turn.

        `window` is the begin of the window of receipt and its length in seconds.
        `found` holds the bounds for the first turn only: a paused read keeps nothing. After a pause
        the hot window may not cover the page any more; then the page comes from Postgres.
        """
        begin, seconds = window
        if not found:
            _, bounds = self._covered(vault, seconds, begin)
            if bounds is None:
                return (yield from self._stored_page(read, vault, read_filter, page))
            found.append(bounds)
        with read.slot(self._slots.hot_window):
            hot = self._hot(read, vault, read_filter, page.page_range(), found.pop())
            return (yield from limited(hot, page))

    def _latest(
        self, read: PausableRead, vault: OpenVault, count: int, within: ReadFilter, page: Page
    ) -> Batches:
        if count <= 0:
            return None
        if page.cursor is not None:
            return (yield from self._select(read, vault, within, page))
        self._sources.labels("postgres").inc()
        newest = partial(self._newest, read, vault, within)
        if page.descending and page.limit is None and count > MAX_BUFFERED:
            yield from read.through(newest, Page(count, descending=True), _with_end)
            return None
        with closing(read.through(newest, Page(count, descending=True))) as batches:
            tail = _tail(batches, count)
        if tail is None:
            return None
        page = tail.bound(page)
        buffered = [tail.readings] if tail.readings is not None else []
        del tail

        def produce(page: Page) -> Batches:
            if buffered:  # for the first turn only: a paused read keeps nothing
                return _buffered(buffered.pop(), page)
            return self._stored_page(read, vault, within, page)

        return (yield from read.through(produce, page))

    def _newest(
        self, read: PausableRead, vault: OpenVault, within: ReadFilter, page: Page
    ) -> Batches:
        """Produce the last readings of the vault, newest first, up to the limit of the page."""
        if page.limit is None:  # `_with_end` fixed the end after the turn before
            return (yield from self._stored_page(read, vault, within, page))
        page_range = replace(page.page_range(), limit=page.limit)
        yield from first_readings(self._stored(read, vault, within, page_range), page.limit)
        return None

    def _stored(
        self,
        read: PausableRead,
        vault: OpenVault,
        read_filter: ReadFilter,
        page_range: PageRange,
        combine: Combine | None = None,
    ) -> Generator[Sequence[Reading], None, None]:
        with (
            read.slot(self._slots.postgres),
            self._pool.connection() as connection,
            closing(
                history.select(connection, vault.vault_id, read_filter, page_range)
            ) as segments,
        ):
            yield from (combine or self._merged)(read, segments, vault, read_filter, page_range)

    def _merged(
        self,
        read: PausableRead,
        segments: Iterable[SealedSegment],
        vault: OpenVault,
        read_filter: ReadFilter,
        page_range: PageRange,
    ) -> Generator[Sequence[Reading], None, None]:
        page_range = read_filter.narrow(page_range)
        order = DESCENDING if page_range.descending else ASCENDING
        batch = 0 if page_range.limit is None else min(page_range.limit, BATCH)
        with self._merge_buffer_share() as max_bytes:
            open_segment = opener(
                vault, read_filter, page_range, order, read.claim_large_segment, rows=read.rows
            )
            scan = Scan(read, order, page_range)
            yield from merge(
                scan.watched(segments),
                scan.noting(open_segment),
                order,
                batch=batch,
                max_bytes=max_bytes,
                report_overlap=partial(_report_overlap, read, vault),
            )

    @contextmanager
    def _merge_buffer_share(self) -> Iterator[Callable[[], int]]:
        """Yield the size of the merge buffer. All reads of a process share `BUFFER_BYTES`."""
        self._running += 1
        try:
            yield lambda: max(MIN_BYTES, BUFFER_BYTES // max(1, self._running))
        finally:
            self._running -= 1

    def _covered(
        self, vault: OpenVault, seconds: int, fixed_begin: int | None
    ) -> tuple[int, list[SegmentBounds] | None]:
        """Return the begin of the window and the bounds of its segments in the hot window.

        The begin is 0 while Redis is away; the bounds are None if the hot window does not cover it.
        """
        begin = fixed_begin or 0
        try:
            coverage = self._coverage(vault.shard(self._shards), seconds, fixed_begin)
            begin = coverage.begin
            if coverage.complete:
                return begin, self._hot_window.bounds(vault.vault_id, begin)
        except RedisError as error:
            report(_log, "the hot window is not used", error)
        except (FormatError, ValueError) as error:  # a writer never wrote it
            _log.error("the hot window is damaged; reads use Postgres: %s", error)
        return begin, None

    def _hot(
        self,
        read: PausableRead,
        vault: OpenVault,
        read_filter: ReadFilter,
        page_range: PageRange,
        found: list[SegmentBounds],
    ) -> Generator[Sequence[Reading], None, None]:
        """Read from the hot window as far as it has the segments, and the rest from Postgres.

        An evicted segment is not replaced by itself: a compaction may have merged it with others.
        """
        reached = page_range.after
        try:
            for batch in self._merged(
                read,
                self._hot_segments(vault, page_range, filter(read_filter.may_match, found)),
                vault,
                read_filter,
                page_range,
            ):
                reached = position(batch[-1])
                yield batch
                del batch  # free its memory before the next one is produced
        except EvictedError as error:
            _log.info("a read continues from Postgres: %s", error)
        else:
            return
        yield from self._stored(read, vault, read_filter, replace(page_range, after=reached))

    def _hot_segments(
        self, vault: OpenVault, page_range: PageRange, bounds_found: Iterable[SegmentBounds]
    ) -> Iterator[SealedSegment]:
        order = DESCENDING if page_range.descending else ASCENDING
        found = sorted(bounds_found, key=order.begin)
        if page_range.after is not None:
            after = order.key_of(page_range.after)
            found = [bounds for bounds in found if order.end(bounds) > after]
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
    """Count and log, once a read, that two segments have ids in common."""
    if read.found_overlap:
        return
    read.found_overlap = True
    metrics.counter("iot_damaged_total").labels("overlap").inc()
    why = "a row was put back, or the database was rolled back"
    _log.error("segments of vault %s have ids in common (%d): %s", vault.vault_id, reading_id, why)


def _with_end(page: Page, batch: Sequence[Reading], rest: Batches) -> Page:
    """Return the page bounded by the position of its last reading instead of its limit."""
    last = batch[-1]
    try:
        for later in rest:
            last = later[-1]
    except LargeSegmentBusyError:
        return page  # a reading stored from now on may then be one of the last
    cursor = page.cursor or Cursor((INT64_MAX, 2**53 - 1), descending=True)
    return replace(page, limit=None, cursor=replace(cursor, until=position(last)))


@dataclass(frozen=True, slots=True)
class _Tail:
    """The positions that bound the last readings of a vault."""

    first: Position
    last: Position
    readings: list[Reading] | None
    """The readings, ascending, if they fit in memory."""

    def bound(self, page: Page) -> Page:
        """Return the page limited to these positions."""
        order = DESCENDING if page.descending else ASCENDING
        begin, until = (self.last, self.first) if page.descending else (self.first, self.last)
        after = order.just_before(order.key_of(begin))
        return replace(page, cursor=Cursor(after, page.descending, until))


def _tail(batches: Batches, count: int) -> _Tail | None:
    """Collect the last readings of a vault, from batches that begin with the newest reading."""
    readings: list[Reading] | None = [] if count <= MAX_BUFFERED else None
    first = last = None
    size = 0
    for batch in batches:
        last = last or position(batch[0])
        first = position(batch[-1])
        if readings is not None:
            size += sum(len(reading.freeform) for reading in batch)
            readings = [*readings, *batch] if size <= MAX_BUFFERED_CHARACTERS else None
        del batch  # free its memory before the next one is produced
    if first is None or last is None:
        return None
    if readings is not None:
        readings.reverse()
    return _Tail(first, last, readings)


def _buffered(readings: list[Reading], page: Page) -> Batches:
    """Produce a page of readings that are in memory in ascending order."""
    if page.descending:
        readings.reverse()
    batch = readings[: page.limit]
    yield batch
    return None if len(batch) == len(readings) else cursor_behind(batch[-1], page)
