"""The source of a live stream: the readings of a vault that were stored after a position.

New readings come from the hot window, in one round trip for all vaults. Readings that the hot
window may lack come from Postgres. Both the hot window and Postgres return all readings of a shard
up to some id and none above. So a position stays exact when a stream changes from one to the other.
"""

import logging
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import chain
from threading import Lock
from typing import TypeVar

from redis.exceptions import RedisError

from iot_cipher.encryption import OpenVault
from iot_models import metrics
from iot_models.errors import FormatError
from iot_models.segment import SegmentBounds
from iot_stores.backlog import Backlog, DrainedShards
from iot_stores.history import read_transaction
from iot_stores.hot_window import HotWindow, RecentSegments, SegmentEvictedError
from iot_stores.postgres import Pool
from iot_stores.store_states import report
from iot_stores.stored_since import StoredAfter, measure, stored_after
from iot_stores.stream_entries import stream_order

from .live_rows import LiveRows, Skipped, merge_rows, rows_of_segment
from .position import LivePosition

SLACK_MS = 5000
"""If the clock of Redis is set back by at most this much, a live stream misses no reading."""
MAX_BEHIND_READINGS, MAX_BEHIND_BYTES = 500_000, 64 * 2**20
"""If the segments in Postgres that a listener lacks have more readings or more bytes than this, the
listener gets a summary in place of their readings."""
PAGE_READINGS, PAGE_BYTES = 20_000, 4 * 2**20
"""Approximate number of readings, and of bytes, that one transaction reads from Postgres: a page. A
page is longer if the ids of merged segments overlap."""

_INSTEAD = "live streams read Postgres instead of the hot window"

_log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False, kw_only=True)
class Watched:
    """A vault with live streams, and the position up to which its readings were read."""

    vault: OpenVault
    position: LivePosition
    checked: DrainedShards
    """How far the shards were drained at the last check."""

    def moved(self, drained: DrainedShards) -> list[int]:
        """Return the shards that were drained since the last check."""
        checked = self.checked.positions
        return [
            shard for shard, position in drained.positions.items() if checked.get(shard) != position
        ]

    def complete(self, drained: DrainedShards) -> None:
        """Note that all readings up to the state of the shards in `drained` were read."""
        self.position = self.position.advanced(_last_ids(drained), since=unseen_since(drained))
        self.checked = drained


def unseen_since(drained: DrainedShards) -> int:
    """Return a time in Unix milliseconds: all readings received before this time are drained.

    So a listener that has all drained readings lacks only readings received at or after this time.
    Held, replayed and imported readings are exceptions: they may be drained long after their time
    of receipt.
    """
    times = [drained.now - SLACK_MS]
    for shard in drained.next_ids:
        if shard not in drained.empty:
            position = drained.positions.get(shard)
            times.append(0 if position is None else stream_order(position)[0])
    return max(0, min(times))


WatchedVault = TypeVar("WatchedVault", bound=Watched)


def _last_ids(drained: DrainedShards) -> dict[int, int]:
    return {shard: max(0, next_id - 1) for shard, next_id in drained.next_ids.items()}


class LiveSource:
    """Reads new readings from the hot window, or from Postgres if the hot window may lack some.

    Uses at most two connections to Postgres.
    """

    def __init__(self, pool: Pool, backlog: Backlog, hot_window: HotWindow) -> None:
        self._pool = pool
        self._backlog = backlog
        self._hot_window = hot_window
        # A client that catches up must not delay the others, so catching up has its own connection.
        self._poll_turn, self._catch_up_turn = Lock(), Lock()

    def drained(self) -> DrainedShards:
        """Return how far the shards are drained. Raises `RedisError`."""
        return self._backlog.drained()

    @staticmethod
    def now(drained: DrainedShards) -> LivePosition:
        """Return the position of a listener that has all readings stored so far."""
        ids = _last_ids(drained)
        return LivePosition(unseen_since(drained), max(ids.values(), default=0), ids)

    def time(self) -> int:
        """Return the time of Redis in Unix milliseconds. Raises `RedisError`."""
        return self._backlog.now()

    def seconds_ago(self, seconds: int) -> LivePosition:
        """Return the position of a listener that lacks the readings of the last `seconds` seconds.

        Raises `RedisError`.
        """
        return LivePosition(max(0, self.time() - seconds * 1000), 0, {})

    def recent_rows(
        self, watched: Sequence[WatchedVault], drained: DrainedShards
    ) -> Iterator[tuple[WatchedVault, LiveRows | None]]:
        """Yield pairs of a vault and some of its new readings, from the hot window.

        A pair with None in place of readings says that the hot window may lack new readings of the
        vault. Before the caller takes the next pair, it must advance the vault's position to the
        end of the readings of this pair.
        """
        moved = {each: each.moved(drained) for each in watched}
        shards = sorted(set(chain.from_iterable(moved.values())))
        vaults = [(each.vault.vault_id, each.position.since) for each in watched]
        try:
            recent = self._hot_window.recent(shards, vaults)
        except (RedisError, FormatError) as error:
            report(_log, _INSTEAD, error)
            yield from ((each, None) for each in watched)
            return
        for each, bounds in zip(watched, recent.bounds, strict=True):
            wanted = {shard: drained.positions[shard] for shard in moved[each]}
            if not _holds(recent, wanted, each.position.since, drained.now):
                yield each, None
                continue
            try:
                for rows in self._from_hot_window(each.vault, wanted, bounds, each.position):
                    yield each, rows
            except (SegmentEvictedError, RedisError):
                yield each, None
            else:
                each.complete(drained)

    def stored_rows(self, watched: Watched, drained: DrainedShards) -> Iterator[LiveRows]:
        """Yield from Postgres a vault's new readings, up to the state of the shards in `drained`.

        Before the caller takes the next result, it must advance `Watched.position` to the end of
        the readings of this result.

        Raises:
            psycopg.Error: Postgres failed; the next call continues at the vault's position.
        """
        until = self.now(drained)
        yield from self._from_postgres(self._poll_turn, watched.vault, watched.position, until)
        watched.complete(drained)

    def between(
        self, vault: OpenVault, after: LivePosition, until: LivePosition
    ) -> Iterator[LiveRows]:
        """Yield the stored readings behind `after` and up to `until`.

        Raises:
            psycopg.Error: Postgres failed.
        """
        shards = [
            shard
            for shard in sorted(after.ids.keys() | until.ids.keys())
            if after.id_of(shard) < until.id_of(shard)
        ]
        if not shards:
            return
        for rows in self._recent_between(vault, after, until, shards):
            after = rows.position
            yield rows
        if not after.includes(until):
            yield from self._from_postgres(self._catch_up_turn, vault, after, until)

    def _recent_between(
        self,
        vault: OpenVault,
        after: LivePosition,
        until: LivePosition,
        shards: Sequence[int],
    ) -> Iterator[LiveRows]:
        """Yield the readings of `between` that can be read from the hot window."""
        try:
            drained = self.drained()
            # A feed that has read Postgres may be ahead of the hot window. `drained` is not: a
            # drain writes to the hot window before `drained` shows the drain.
            known = self.now(drained)
            wanted = {
                shard: position
                for shard, position in drained.positions.items()
                if shard in shards and until.id_of(shard) <= known.id_of(shard)
            }
            if len(wanted) < len(shards):
                return
            recent = self._hot_window.recent(shards, [(vault.vault_id, after.since)])
        except (RedisError, FormatError) as error:
            report(_log, _INSTEAD, error)
            return
        if not _holds(recent, wanted, after.since, drained.now):
            return
        try:
            for rows in self._from_hot_window(vault, wanted, recent.bounds[0], after, until):
                after = rows.position
                yield rows
        except (SegmentEvictedError, RedisError):
            return
        ids = {shard: until.id_of(shard) for shard in shards}
        yield LiveRows(after.advanced(ids))

    def _from_hot_window(
        self,
        vault: OpenVault,
        covered: Container[int],
        bounds_found: Iterable[SegmentBounds],
        after: LivePosition,
        until: LivePosition | None = None,
    ) -> Iterator[LiveRows]:
        """Yield the readings behind `after` and up to `until`, from segments of the hot window.

        Segments of shards outside `covered` are left out, because the hot window may lack earlier
        segments of these shards.

        Raises:
            SegmentEvictedError, RedisError: the hot window can't return a segment.
        """
        found = sorted(
            (
                bounds
                for bounds in bounds_found
                if bounds.shard in covered and bounds.last_id > after.id_of(bounds.shard)
            ),
            key=lambda bounds: bounds.first_id,
        )
        if until is not None:
            found = [bounds for bounds in found if bounds.first_id <= until.id_of(bounds.shard)]
        for segment in self._hot_window.segments(vault.vault_id, found):
            bounds = segment.bounds
            last = bounds.last_id
            if until is not None:
                last = min(last, until.id_of(bounds.shard))
            position = after.advanced({bounds.shard: last})
            yield replace(rows_of_segment(vault, segment, after, until), position=position)
            after = position

    def _from_postgres(
        self,
        turn: Lock,
        vault: OpenVault,
        after: LivePosition,
        until: LivePosition,
    ) -> Iterator[LiveRows]:
        """Yield the readings in Postgres behind `after` and up to `until`, page by page.

        If there are too many (`MAX_BEHIND_READINGS`, `MAX_BEHIND_BYTES`), yield only a summary.
        `turn` is held while a connection is in use. While the caller sends a page, no connection is
        in use.
        """
        metrics.counter("iot_live_reads_of_postgres_total").inc()
        with turn, self._pool.connection() as connection, read_transaction(connection):
            size = measure(connection, _search(vault, after))
        if size.readings > MAX_BEHIND_READINGS or size.bytes > MAX_BEHIND_BYTES:
            skipped = Skipped(size.readings, size.received_min, size.received_max)
            yield LiveRows(after.advanced(until.ids), skipped=skipped)
            return
        last_id: int | None = 0 if size.segments else None
        while last_id is not None:
            rows, last_id = self._page(turn, vault, after, until, last_id)
            after = rows.position
            yield rows
        yield LiveRows(after.advanced(until.ids))

    def _page(
        self,
        turn: Lock,
        vault: OpenVault,
        after: LivePosition,
        until: LivePosition,
        behind_id: int,
    ) -> tuple[LiveRows, int | None]:
        """Read a page from the segments in Postgres that have an id above `behind_id`.

        Return the page, and its last id; None in place of the id if no segment follows.
        """
        parts: list[LiveRows] = []
        last_id = count = size = 0
        with (
            turn,
            self._pool.connection() as connection,
            read_transaction(connection),
            closing(stored_after(connection, _search(vault, after), behind_id)) as segments,
        ):
            for segment in segments:
                full = count >= PAGE_READINGS or size >= PAGE_BYTES
                if full and segment.bounds.first_id > last_id:
                    return merge_rows(parts, after), last_id
                parts.append(rows_of_segment(vault, segment, after, until))
                last_id = max(last_id, segment.bounds.last_id)
                count += segment.bounds.count
                size += segment.size or 0
        return merge_rows(parts, after), None


def _search(vault: OpenVault, after: LivePosition) -> StoredAfter:
    return StoredAfter(vault.vault_id, after.since, after.ids, after.floor)


def _holds(recent: RecentSegments, wanted: Mapping[int, str], since: int, now: int) -> bool:
    """Return whether the hot window covers each shard of `wanted` from the time `since` on.

    The cover must reach the shard's stream position in `wanted`.
    """
    for shard, position in wanted.items():
        before, after = recent.before.get(shard), recent.after.get(shard)
        if before is None or after is None:
            return False
        if not before.reaches(position) or not after.holds(since, now):
            return False
    return True
