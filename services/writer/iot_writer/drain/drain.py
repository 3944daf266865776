"""The drain: takes what waits in the streams of shards and makes it history, exactly once."""

import logging
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import psycopg
from redis.exceptions import RedisError

from iot_cipher.envelope import OpenedEntry, Opener
from iot_models import metrics, names
from iot_models.entry import Entry, decode_entry
from iot_models.errors import IotError
from iot_stores import history, ledger
from iot_stores.audit import AuditLog
from iot_stores.backlog import Backlog
from iot_stores.dead_letters import DeadLetters
from iot_stores.forgotten import REASON, DatedEntry, find_forgotten
from iot_stores.hot_window import DrainedShard, HotWindow
from iot_stores.months import month_begin
from iot_stores.postgres import Connection
from iot_stores.store_states import report
from iot_stores.stream_entries import HeldEntry, Removal, WaitingEntry
from iot_writer.maintenance.partitions import ensure_partition

from .batch import Batch, StoredBatch, build_batch, skip_given_ids

DRAIN_BYTES = 4 * 2**20
"""Sealed bytes one drain takes, about."""
DRAIN_CONTENT_BYTES = 16 * 2**20
"""Unpacked bytes of readings one drain takes, about: bounds the writer's memory."""
HOT_WINDOW_PAUSE_SECONDS = 10.0
"""A hot window on a Redis of its own that fails is left alone for so long: one that doesn't answer
costs seconds each time, in which the backlog grows."""
_MOST_LACKING = 10_000
MANY_MISSING = 1000
"""Missing numbers from which a session should end: each drain reads and writes all of them."""
RENEWAL_SECONDS = 10.0
"""A writer asks for new sessions this often at most."""

_REFUSED = (psycopg.DataError, psycopg.IntegrityError)
"""What Postgres says of values that it will not take, ever."""

_log = logging.getLogger(__name__)


class DrainOutcome(StrEnum):
    """How a drain ended."""

    STORED = "stored"
    REPEATED = "repeated"
    EMPTY = "empty"
    BUSY = "busy"
    HELD = "held"
    """Postgres does not have the vaults of the entries."""


class EntryTooOldError(IotError):
    """The entry was sealed too long ago to tell whether it is stored."""


class ImpossibleTimeError(IotError):
    """The entry's id is no time at which it can have been received."""


@dataclass(slots=True)
class DrainResult:
    """What became of shards."""

    outcomes: dict[int, DrainOutcome] = field(default_factory=dict)
    left: list[int] = field(default_factory=list)
    """In which entries wait still."""


class Drain:
    """Drains shards, as many in one transaction as there is enough for."""

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
        self._renewal_from = 0.0
        self._lacking: set[uuid.UUID] = set()
        """Vaults that Postgres lacked when they were met last."""
        self._created: set[int] = set()
        """Shards that the ledger has, as far as is known."""
        self._backlog = backlog
        self._dead_letters = dead_letters
        self._hot_window = hot_window
        self._opener = opener
        self._audit = audit
        self._shards = shards

    def run(self, connection: Connection, shards: Sequence[int]) -> DrainResult:
        """Store the oldest entries of some shards, in one transaction.

        The shards are taken in their order until there is enough for one drain; those that were
        not come to are handed back to the queue before anything is stored, for another writer may
        be idle. Of a shard that another writer has, nothing is stored.

        An entry is removed from its stream only after its readings are committed. Whatever is
        killed at whatever point, the next drain does the rest and nothing twice: the ledger,
        written in the transaction of the segments, tells which entries are stored. An entry that
        can't be opened goes to the dead letters and holds up nothing. An entry whose vault Postgres
        does not have is held, in the step that removes it from its stream: nobody could ever open
        what would be stored.

        Raises:
            psycopg.Error, RedisError: a part is away; what was not stored waits on.
            UnfitRedisError: Redis is another installation's by now.
        """
        batches, untouched = self._take(connection, shards)
        if untouched:
            self._backlog.enqueue_once([names.drain_job(shard) for shard in untouched])
        drained = DrainResult({batch.shard: DrainOutcome.EMPTY for batch in batches})
        batches = [batch for batch in batches if batch.taken]
        if not batches:
            return drained
        drained.outcomes |= {batch.shard: DrainOutcome.BUSY for batch in batches}
        stored = self._store_or_isolate(connection, batches)
        if not stored:
            return drained
        self._warm(stored)
        left = self._backlog.remove(
            [
                Removal(
                    each.batch.shard,
                    each.batch.taken[-1],
                    each.after.position,
                    each.after.next_id,
                    each.held,
                )
                for each in stored
            ]
        )
        for each, waiting in zip(stored, left, strict=True):
            drained.outcomes[each.batch.shard] = _outcome(each)
            if waiting:
                drained.left.append(each.batch.shard)
            _count(each)
        self._tell_of_held([hold for each in stored for hold in each.held])
        return drained

    def _store_or_isolate(self, connection: Connection, batches: list[Batch]) -> list[StoredBatch]:
        """Store batches; when Postgres refuses what is in them, all but the refused entries."""
        try:
            return self._store(connection, batches)
        except _REFUSED as error:
            _log.warning("Postgres refuses a batch, trying in parts: %s", error)
        if len(batches) > 1:
            return [
                stored
                for batch in batches
                for stored in self._store_or_isolate(connection, [batch])
            ]
        return self._isolate(connection, batches[0])

    def _isolate(self, connection: Connection, batch: Batch) -> list[StoredBatch]:
        refused: list[tuple[WaitingEntry, Exception]] = []
        for each in batch.opened:
            try:
                with connection.transaction(force_rollback=True):
                    self._store(connection, [Batch(batch.shard, batch.taken, [each])])
            except _REFUSED as problem:
                refused.append((each[0], problem))
        bad = {waiting.entry_id for waiting, _ in refused}
        good = [each for each in batch.opened if each[0].entry_id not in bad]
        stored = self._store(connection, [Batch(batch.shard, batch.taken, good)])
        if stored:
            for waiting, reason in refused:
                self._bury(connection, batch.shard, waiting, reason)
        return stored

    def _take(self, connection: Connection, shards: Sequence[int]) -> tuple[list[Batch], list[int]]:
        """What waits in shards, as much as is enough; and the shards that were not looked at."""
        batches: list[Batch] = []
        sealed_bytes, content_bytes = DRAIN_BYTES, DRAIN_CONTENT_BYTES
        for shard in dict.fromkeys(shards):
            if sealed_bytes <= 0 or content_bytes <= 0:
                break
            batch = Batch(shard)
            batches.append(batch)
            for waiting in self._backlog.read(shard, max_bytes=sealed_bytes):
                batch.taken.append(waiting)
                sealed_bytes -= len(waiting.sealed)
                content_bytes -= self._open(connection, batch, waiting)
                if content_bytes <= 0:
                    break
            batch.opened.sort(key=lambda each: each[0].received)  # entries that were held are older
        for batch in batches:
            self._set_aside_forgotten(connection, batch)
        seen = {batch.shard for batch in batches}
        return batches, [shard for shard in dict.fromkeys(shards) if shard not in seen]

    def _open(self, connection: Connection, batch: Batch, waiting: WaitingEntry) -> int:
        """Open an entry into its batch; how many bytes it unpacks to, about."""
        try:
            _refuse_impossible_time(waiting)
            opened = self._opener.open(batch.shard, waiting.sealed)
            entry = decode_entry(opened.content)
        except IotError as error:
            self._bury(connection, batch.shard, waiting, error)
            return 0
        batch.opened.append((waiting, opened, entry))
        return len(entry.readings.freeform) + 16 * len(entry.readings)

    def _set_aside_forgotten(self, connection: Connection, batch: Batch) -> None:
        dated = {
            waiting.entry_id: DatedEntry(
                (batch.shard, opened.session), waiting.received, entry.sealed_at
            )
            for waiting, opened, entry in batch.opened
        }
        if not dated:
            return
        forgotten = find_forgotten(connection, list(dated.values()), batch.taken[0].read_at)
        if not forgotten:
            return
        for waiting, _, _ in batch.opened:
            if dated[waiting.entry_id] in forgotten:
                self._bury(connection, batch.shard, waiting, EntryTooOldError(REASON))
        batch.opened = [each for each in batch.opened if dated[each[0].entry_id] not in forgotten]

    def _bury(
        self, connection: Connection, shard: int, waiting: WaitingEntry, error: Exception
    ) -> None:
        if not self._dead_letters.add(shard, waiting, str(error)):
            return
        where = f"entry {waiting.entry_id.decode()} of shard {shard}"
        _log.error("%s is set aside: %s", where, error)
        metrics.counter("iot_entries_dead_total").inc()
        self._audit.record(connection, f"{where} was set aside: {error}")

    def _store(self, connection: Connection, batches: Sequence[Batch]) -> list[StoredBatch]:
        """Store what is new in batches, but those of shards that other writers have."""
        _ensure_partitions(connection, batches)
        wanted = {batch.shard for batch in batches}
        given = self._backlog.progress(sorted(wanted))
        if not wanted <= self._created:
            ledger.create_offsets(connection, wanted)
        with connection.transaction():
            offsets = skip_given_ids(ledger.lock_offsets(connection, wanted, self._shards), given)
            # Whichever was not there is created the next time, be it that the database forgot it.
            self._created = self._created - wanted | offsets.keys()
            batches = [batch for batch in batches if batch.shard in offsets]
            sessions, lacking = ledger.load_sessions(
                connection,
                {(each.shard, opened.session) for each in batches for _, opened, _ in each.opened},
                set().union(*(batch.vaults() for batch in batches)),
            )
            stored = [
                build_batch(batch, offsets[batch.shard], sessions, lacking) for batch in batches
            ]
            moved = {each.batch.shard: each.after for each in stored if each.after != each.before}
            if moved:
                history.insert(connection, [one for each in stored for one in each.segments])
                ledger.save_sessions(
                    connection,
                    {of: each for of, each in sessions.items() if of[0] in moved},
                    max(opened[-1][0].received for opened in _opened(batches)),
                )
                ledger.save_offsets(connection, moved, self._shards)
        if any(len(each.missing) > MANY_MISSING for each in sessions.values()):
            self._ask_for_new_sessions()
        return stored

    def _ask_for_new_sessions(self) -> None:
        """After a restore of Postgres, sessions lack what was stored since the backup."""
        if time.monotonic() < self._renewal_from:
            return
        self._renewal_from = time.monotonic() + RENEWAL_SECONDS
        self._backlog.ask_for_new_sessions()
        _log.warning("sessions lack many numbers in the ledger: API processes begin new ones")

    def _tell_of_held(self, holds: Sequence[HeldEntry]) -> None:
        """Log each vault that is missing once, and count what is held for it."""
        metrics.counter("iot_entries_held_total").inc(len(holds))
        vaults = {uuid.UUID(bytes=hold.vault_id) for hold in holds}
        for vault_id in vaults - self._lacking:
            _log.error(
                "Postgres has no vault %s: its readings are held in Redis until its row is back; "
                "see `iot-sensor held list` and docs/reliability.md, After a restore",
                vault_id,
            )
        if len(self._lacking) > _MOST_LACKING:
            self._lacking.clear()
        self._lacking |= vaults

    def _warm(self, stored: Sequence[StoredBatch]) -> None:
        """Put what was stored into the hot window, if that can be done.

        If not, the stream must be trimmed all the same: a backlog that is full takes nothing, and
        of a Redis that is full that is what makes room again. Reads go to Postgres, since the hot
        window doesn't reach the position to which the shard is drained; the next drain that
        gets through moves its begin.
        """
        if time.monotonic() < self._hot_window_from:
            metrics.counter("iot_hot_window_missed_total").inc(len(stored))
            return
        try:
            self._hot_window.write(
                [
                    DrainedShard(each.batch.shard, each.before, each.after.position, each.segments)
                    for each in stored
                ]
            )
        except RedisError as error:
            self._hot_window_from = time.monotonic() + self._hot_window_pause
            metrics.counter("iot_hot_window_missed_total").inc(len(stored))
            report(_log, "the hot window goes without some segments", error)


def _outcome(stored: StoredBatch) -> DrainOutcome:
    if stored.segments:
        return DrainOutcome.STORED
    return DrainOutcome.HELD if stored.held else DrainOutcome.REPEATED


def _ensure_partitions(connection: Connection, batches: Sequence[Batch]) -> None:
    # Asked each time: retention may have dropped one, or a trial that made it was rolled back.
    months: set[int] = set()
    for opened in _opened(batches):
        ends = {month_begin(opened[0][0].received), month_begin(opened[-1][0].received)}
        # A stream's times never fall: none but these two months, or some between them.
        months |= ends if len(ends) == 1 else {month_begin(each.received) for each, _, _ in opened}
    for month in months:
        ensure_partition(connection, month)


def _opened(batches: Sequence[Batch]) -> list[list[tuple[WaitingEntry, OpenedEntry, Entry]]]:
    """What could be opened of the batches of which something could."""
    return [batch.opened for batch in batches if batch.opened]


def _refuse_impossible_time(waiting: WaitingEntry) -> None:
    if not waiting.has_valid_time:
        raise ImpossibleTimeError("its id in the stream is a time after the year 9999")


def _count(stored: StoredBatch) -> None:
    metrics.counter("iot_segments_stored_total").inc(len(stored.segments))
    readings = sum(segment.bounds.count for segment in stored.segments)
    metrics.counter("iot_readings_stored_total").inc(readings)
    metrics.counter("iot_entries_repeated_total").inc(stored.repeated)
    if readings:
        first = stored.batch.taken[0]
        waited = (first.read_at - first.received) / 1000 + time.monotonic() - stored.batch.began
        metrics.histogram("iot_stored_after_seconds").observe(max(0.0, waited))
