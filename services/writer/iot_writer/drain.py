"""The drain: takes what waits in a shard's stream and makes it history, exactly once."""

import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum

import psycopg
from redis.exceptions import RedisError

from iot_cipher.envelope import OpenedEntry, Opener
from iot_cipher.sealed_segment import SealedSegment
from iot_models import metrics
from iot_models.entry import Entry, decode_entry
from iot_models.errors import IotError
from iot_stores import history, ledger
from iot_stores.audit import AuditLog
from iot_stores.backlog import Backlog, Waiting
from iot_stores.dead_letters import DeadLetters
from iot_stores.hot_window import HotWindow
from iot_stores.ledger import Offset
from iot_stores.months import month_begin
from iot_stores.postgres import Connection

from .partitions import ensure_partition
from .segment_builder import Arrival, build_segments

DRAIN_BYTES = 4 * 2**20
"""Sealed bytes one drain takes, about."""
DRAIN_CONTENT_BYTES = 16 * 2**20
"""Unpacked bytes of readings one drain takes, about: bounds the writer's memory."""
HOT_WINDOW_PAUSE_SECONDS = 10.0
"""A hot window on a Redis of its own that fails is left alone for so long: one that doesn't answer
costs seconds each time, in which the backlog grows."""
TOO_OLD_MS = 60 * 86_400_000
"""An entry sealed so long ago is set aside: the ledger may have forgotten its session."""

_REFUSED = (psycopg.DataError, psycopg.IntegrityError)
"""What Postgres says of values that it will not take, ever."""

_log = logging.getLogger(__name__)


class Outcome(StrEnum):
    """How a drain ended."""

    STORED = "stored"
    REPEATED = "repeated"
    EMPTY = "empty"
    BUSY = "busy"


class EntryTooOldError(IotError):
    """The entry was sealed too long ago to tell whether it is stored."""


@dataclass(slots=True)
class _Batch:
    """What one drain took from the stream."""

    taken: list[Waiting] = field(default_factory=list)
    opened: list[tuple[Waiting, OpenedEntry, Entry]] = field(default_factory=list)
    content_bytes: int = 0


@dataclass(slots=True)
class _Stored:
    """What one drain committed."""

    before: Offset
    after: Offset
    segments: list[SealedSegment]
    repeated: int


class Drain:
    """Drains one shard at a time."""

    def __init__(
        self,
        backlog: Backlog,
        dead_letters: DeadLetters,
        hot_window: HotWindow,
        opener: Opener,
        audit: AuditLog,
        *,
        shards: int,
        hot_window_pause: float = 0.0,
    ) -> None:
        """`hot_window_pause`: when the hot window fails, drains go without it for so long."""
        self._hot_window_pause = hot_window_pause
        self._hot_window_from = 0.0
        self._backlog = backlog
        self._dead_letters = dead_letters
        self._hot_window = hot_window
        self._opener = opener
        self._audit = audit
        self._shards = shards

    def run(self, connection: Connection, shard: int) -> tuple[Outcome, int]:
        """Store the oldest entries of a shard; how it ended, and how many entries are left.

        An entry is removed from the stream only after its readings are committed. Whatever is
        killed at whatever point, the next drain does the rest and nothing twice: the ledger,
        written in the transaction of the segments, tells which entries are stored. An entry that
        can't be opened goes to the dead letters and holds up nothing. When another writer has
        the shard, nothing is done.

        Raises:
            psycopg.Error, RedisError: a part is away; what was not stored waits on.
        """
        batch = self._take(connection, shard)
        if not batch.taken:
            return Outcome.EMPTY, 0
        stored = self._store_or_isolate(connection, shard, batch)
        if stored is None:
            return Outcome.BUSY, 0
        self._warm(shard, stored)
        left = self._backlog.remove(shard, batch.taken[-1], stored.after.position)
        _count(stored, batch)
        return Outcome.STORED if stored.segments else Outcome.REPEATED, left

    def _store_or_isolate(
        self, connection: Connection, shard: int, batch: _Batch
    ) -> _Stored | None:
        """Store a batch; when Postgres refuses what is in it, all of it but the refused entries."""
        try:
            return self._store(connection, shard, batch)
        except _REFUSED as error:
            _log.warning("shard %d: Postgres refuses a batch, trying one by one: %s", shard, error)
        refused: list[tuple[Waiting, Exception]] = []
        for each in batch.opened:
            try:
                with connection.transaction(force_rollback=True):
                    self._store(connection, shard, _Batch(batch.taken, [each]))
            except _REFUSED as problem:
                refused.append((each[0], problem))
        bad = {waiting.entry_id for waiting, _ in refused}
        good = [each for each in batch.opened if each[0].entry_id not in bad]
        stored = self._store(connection, shard, _Batch(batch.taken, good))
        if stored is not None:
            for waiting, reason in refused:
                self._bury(connection, shard, waiting, reason)
        return stored

    def _take(self, connection: Connection, shard: int) -> _Batch:
        batch = _Batch()
        for waiting in self._backlog.read(shard, max_bytes=DRAIN_BYTES):
            batch.taken.append(waiting)
            try:
                opened = self._opener.open(shard, waiting.sealed)
                entry = decode_entry(opened.content)
                _refuse_too_old(entry)
            except IotError as error:
                self._bury(connection, shard, waiting, error)
                continue
            batch.opened.append((waiting, opened, entry))
            batch.content_bytes += len(entry.readings.freeform) + 16 * len(entry.readings)
            if batch.content_bytes >= DRAIN_CONTENT_BYTES:
                break
        return batch

    def _bury(self, connection: Connection, shard: int, waiting: Waiting, error: Exception) -> None:
        if not self._dead_letters.bury(shard, waiting, str(error)):
            return
        where = f"entry {waiting.entry_id.decode()} of shard {shard}"
        _log.error("%s is set aside: %s", where, error)
        metrics.counter("iot_entries_dead_total").inc()
        self._audit.record(connection, f"{where} was set aside: {error}")

    def _store(self, connection: Connection, shard: int, batch: _Batch) -> _Stored | None:
        _ensure_partitions(connection, (waiting.received for waiting, _, _ in batch.opened))
        with connection.transaction():
            before = ledger.lock_offset(connection, shard, self._shards)
            if before is None:
                return None
            names = {opened.session for _, opened, _ in batch.opened}
            sessions = ledger.load_sessions(connection, shard, names)
            arrivals = [
                Arrival(waiting.received, entry)
                for waiting, opened, entry in batch.opened
                if sessions[opened.session].admit(opened.number)
            ]
            if not arrivals:
                return _Stored(before, before, [], len(batch.opened))
            segments, next_id = build_segments(arrivals, shard=shard, next_id=before.next_id)
            last = batch.taken[-1]
            after = Offset(last.entry_id.decode(), max(before.received_max, last.received), next_id)
            history.insert(connection, segments)
            ledger.keep_sessions(connection, shard, sessions)
            ledger.move_offset(connection, shard, self._shards, after)
        return _Stored(before, after, segments, len(batch.opened) - len(arrivals))

    def _warm(self, shard: int, stored: _Stored) -> None:
        """Put what was stored into the hot window, if that can be done.

        If not, the stream must be trimmed all the same: a backlog that is full takes nothing, and
        of a Redis that is full that is what makes room again. Reads go to Postgres, since the hot
        window doesn't reach the position to which the shard is drained; the next drain that
        gets through moves its begin.
        """
        if time.monotonic() < self._hot_window_from:
            metrics.counter("iot_hot_window_missed_total").inc()
            return
        try:
            self._hot_window.write(
                shard, stored.segments, before=stored.before, position=stored.after.position
            )
        except RedisError as error:
            self._hot_window_from = time.monotonic() + self._hot_window_pause
            metrics.counter("iot_hot_window_missed_total").inc()
            _log.warning("the hot window goes without segments of shard %d: %s", shard, error)


def _ensure_partitions(connection: Connection, received: Iterable[int]) -> None:
    # Asked each time: retention may have dropped one, or a trial that made it was rolled back.
    for month in {month_begin(each) for each in received}:
        ensure_partition(connection, month)


def _refuse_too_old(entry: Entry) -> None:
    if time.time() * 1000 - entry.sealed_at > TOO_OLD_MS:
        raise EntryTooOldError("sealed more than 60 days ago")


def _count(stored: _Stored, batch: _Batch) -> None:
    metrics.counter("iot_segments_stored_total").inc(len(stored.segments))
    readings = sum(segment.bounds.count for segment in stored.segments)
    metrics.counter("iot_readings_stored_total").inc(readings)
    metrics.counter("iot_entries_repeated_total").inc(stored.repeated)
    if readings:
        waited = time.time() - batch.taken[0].received / 1000
        metrics.histogram("iot_stored_after_seconds").observe(max(0.0, waited))
