"""Reading back: where the segments are that answer a question, and what is in them, in order."""

import logging
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace

from redis.exceptions import RedisError

from iot_cipher.sealed_segment import SealedSegment
from iot_cipher.vault import OpenVault
from iot_models import metrics
from iot_models.reading import Reading
from iot_models.segment import SegmentBounds
from iot_stores import history
from iot_stores.history import Question, Span
from iot_stores.hot_window import HotWindow
from iot_stores.postgres import Connection, Pool
from iot_stores.reach import Position

from .cursor import Cursor
from .merge import BATCH, HELD_BYTES, merge
from .opening import opener
from .order import ASCENDING, DESCENDING, position
from .paging import Page

MOST_HELD = 2_000
"""The last n readings are held in memory up to this n; beyond it they are streamed."""
LEAST_BYTES = 4 * 2**20

Batches = Generator[list[Reading], None, Cursor | None]
"""Readings, some thousands at a time; at the end where to go on, if there is more."""

_ALL, _FIRST = Question(), Page()
_log = logging.getLogger(__name__)


class EvictedError(Exception):
    """The hot window no longer has a segment that its index names, or is away."""


class Readings:
    """Reads a vault's readings, by (interrogator timestamp, id), in batches of some thousands.

    Every method answers as of one moment, and raises as it is iterated:
        DecryptionError, FormatError: a segment is damaged; what came before it is right.
        psycopg.Error: Postgres is away.
    """

    def __init__(
        self, pool: Pool, hot_window: HotWindow, *, shards: int, clock: Callable[[], float]
    ) -> None:
        self._pool = pool
        self._hot_window = hot_window
        self._shards = shards
        self._clock = clock
        self._sources = metrics.counter("iot_reads_total")
        self._running = 0

    def select(self, vault: OpenVault, question: Question, page: Page = _FIRST) -> Batches:
        """The readings within a question's bounds, from Postgres."""
        self._sources.labels("postgres").inc()
        with self._pool.connection() as connection:
            stored = self._stored(connection, vault, question, page.span())
            return (yield from _limited(stored, page))

    def last_seconds(self, vault: OpenVault, seconds: int, page: Page = _FIRST) -> Batches:
        """What was received in the last `seconds`: from the hot window if it holds all of that.

        Of an answer in parts, the seconds are those before the first.
        """
        settled = page.cursor.received_low if page.cursor else None
        covered = self._covered(vault, seconds, settled)
        if covered is not None:
            begin, found = covered
            self._sources.labels("hot_window").inc()
            hot = self._hot(vault, Question(received_low=begin), page.span(), found)
            last = yield from _limited(hot, page)
        else:
            begin = settled or max(1, int(self._clock() * 1000) - seconds * 1000)
            last = yield from self.select(vault, Question(received_low=begin), page)
        return last and replace(last, received_low=begin)

    def latest(self, vault: OpenVault, count: int, page: Page = _FIRST) -> Batches:
        """The last `count` readings of the vault's order.

        Of an answer in parts, those that were the last before the first part, and what came to lie
        among them since.
        """
        if count <= 0:
            return None
        if page.cursor is not None:
            return (yield from self.select(vault, _ALL, page))
        self._sources.labels("postgres").inc()
        with self._pool.connection() as connection:
            if count <= MOST_HELD:
                rows = self._newest(connection, vault, count)
                return (yield from _part(rows, page))
            if page.descending and page.limit is None:
                stored = self._stored(connection, vault, _ALL, Span(descending=True, few=count))
                yield from _first(stored, count)
                return None
            with history.snapshot(connection):
                return (yield from self._from_the_last(connection, vault, count, page))

    def max_relative_timestamp(self, vault: OpenVault | None = None) -> int | None:
        """The greatest relative timestamp, of one vault or of all; None when there is none."""
        with self._pool.connection() as connection:
            vault_id = None if vault is None else vault.vault_id
            return history.max_relative_timestamp(connection, vault_id)

    def _stored(
        self, connection: Connection, vault: OpenVault, question: Question, span: Span
    ) -> Generator[list[Reading], None, None]:
        with closing(history.select(connection, vault.vault_id, question, span)) as segments:
            yield from self._merged(segments, vault, question, span)

    def _merged(
        self, segments: Iterable[SealedSegment], vault: OpenVault, question: Question, span: Span
    ) -> Generator[list[Reading], None, None]:
        order = DESCENDING if span.descending else ASCENDING
        batch = 0 if span.few is None else min(span.few, BATCH)
        with self._one_more_reader() as most_bytes:
            open_segment = opener(vault, question, span, order)
            yield from merge(segments, open_segment, order, batch=batch, most_bytes=most_bytes)

    @contextmanager
    def _one_more_reader(self) -> Iterator[Callable[[], int]]:
        """All readers of a process share the memory for what overlaps."""
        self._running += 1
        try:
            yield lambda: max(LEAST_BYTES, HELD_BYTES // max(1, self._running))
        finally:
            self._running -= 1

    def _newest(self, connection: Connection, vault: OpenVault, count: int) -> list[Reading]:
        """The last `count` readings, rising."""
        span = Span(descending=True, few=count)
        batches = self._stored(connection, vault, _ALL, span)
        rows = [row for batch in _first(batches, count) for row in batch]
        rows.reverse()
        return rows

    def _from_the_last(
        self, connection: Connection, vault: OpenVault, count: int, page: Page
    ) -> Batches:
        """The last `count` readings, when they are too many to hold: their ends are looked for."""
        ends = self._ends(connection, vault, count)
        if ends is None:
            return None
        first, last = ends
        if page.descending:
            page = replace(page, cursor=Cursor((last[0], last[1] + 1), until=first))
        else:
            page = replace(page, cursor=Cursor((first[0], first[1] - 1), until=last))
        return (yield from _limited(self._stored(connection, vault, _ALL, page.span()), page))

    def _ends(
        self, connection: Connection, vault: OpenVault, count: int
    ) -> tuple[Position, Position] | None:
        """Where the first and the last of the last `count` readings stand."""
        last = first = None
        span = Span(descending=True, few=count)
        with closing(self._stored(connection, vault, _ALL, span)) as batches:
            for batch in batches:
                last = last or position(batch[0])
                first = position(batch[min(count, len(batch)) - 1])
                count -= len(batch)
                if count <= 0:
                    break
        return None if first is None or last is None else (first, last)

    def _covered(
        self, vault: OpenVault, seconds: int, settled: int | None
    ) -> tuple[int, list[SegmentBounds]] | None:
        """From when, and which segments; None when the hot window can't say."""
        try:
            begin = self._hot_window.covers(vault.shard(self._shards), seconds, settled)
            return (
                None if begin is None else (begin, self._hot_window.bounds(vault.vault_id, begin))
            )
        except RedisError as error:
            _log.warning("the hot window is not used, Redis is away: %s", error)
            return None

    def _hot(
        self, vault: OpenVault, question: Question, span: Span, found: list[SegmentBounds]
    ) -> Generator[list[Reading], None, None]:
        """From the hot window as far as it has them, from there on from Postgres.

        Not segment by segment: what was evicted may have been merged with others meanwhile.
        """
        reached = span.after
        try:
            for batch in self._merged(self._kept(vault, span, found), vault, question, span):
                yield batch
                reached = position(batch[-1])
        except EvictedError as error:
            _log.info("a read goes on from Postgres: %s", error)
        else:
            return
        with self._pool.connection() as connection:
            yield from self._stored(connection, vault, question, replace(span, after=reached))

    def _kept(
        self, vault: OpenVault, span: Span, found: list[SegmentBounds]
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


def _limited(batches: Generator[list[Reading], None, None], page: Page) -> Batches:
    """As many readings as the page has, and where to go on if there are more."""
    with closing(batches):
        left = page.limit
        if left is None:
            yield from batches
            return None
        last: Reading | None = None
        for batch in batches:
            if last is not None and not left:
                return _cursor(last, page)
            last = batch[min(left, len(batch)) - 1]
            yield batch[:left]
            if len(batch) > left:
                return _cursor(last, page)
            left -= len(batch)
    return None


def _first(
    batches: Generator[list[Reading], None, None], count: int
) -> Generator[list[Reading], None, None]:
    with closing(batches):
        for batch in batches:
            yield batch[:count]
            count -= len(batch)
            if count <= 0:
                return


def _cursor(last: Reading, page: Page) -> Cursor:
    until = page.cursor.until if page.cursor else None
    return Cursor(position(last), page.descending, until)


def _part(rows: list[Reading], page: Page) -> Batches:
    """The first part of readings that are all there, rising."""
    if page.descending:
        rows.reverse()
    part = rows[: page.limit]
    if part:
        yield part
    if len(part) == len(rows):
        return None
    return Cursor(position(part[-1]), page.descending, until=position(rows[-1]))
