"""The drain: store the waiting entries of shards in Postgres, exactly once.

A drain has four steps:

1. Read the oldest entries of the streams and open them. Copy entries that can't be opened to the
   dead letters, unless an earlier drain has copied them.
2. In one transaction of Postgres: lock the shards in the ledger, skip entries that the ledger has,
   insert the segments, write the ledger.
3. Add the segments to the hot window.
4. Remove the entries from their streams.

If the writer is killed before step 4, the entries stay in the stream, and the next drain of the
shard, by any writer, finishes the work. Before the commit of step 2, nothing is stored yet. After
the commit, the next drain finds the entries in the ledger and does not store them again. It moves
the start of the hot window's cover past segments that step 3 missed.

Step 4 is last for three reasons. It deletes the copy of the readings in the backlog. It ends the
wait of clients that sent `ack=stored`. And it records in Redis how far the shard is drained. Reads
use the hot window only if its cover reaches this position, so step 3 must come first.
"""

import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

import psycopg
from redis.exceptions import RedisError

from iot_cipher.encryption import Opener, decode_entry
from iot_models import metrics, names
from iot_models.audit_event import AuditKind, audit_event
from iot_models.errors import IotError
from iot_models.tracing import Phase, Phases
from iot_stores import history, ledger
from iot_stores.audit import AuditLog
from iot_stores.backlog import Backlog
from iot_stores.dead_letters import DeadLetters
from iot_stores.erasures import erased_among
from iot_stores.forgotten import REASON, TOO_OLD_MS, DatedEntry, find_forgotten
from iot_stores.hot_window import DrainedShard, HotWindow
from iot_stores.postgres import Connection, rolled_back_if_open
from iot_stores.store_states import report
from iot_stores.stream_entries import WaitingEntry
from iot_writer.maintenance.partitions import ensure_partition, partition_name

from .batch import (
    Batch,
    BatchEntry,
    EntryTooOldError,
    ImpossibleTimeError,
    StoredBatch,
    build_batch,
    name_of,
    raise_next_ids,
    refuse_impossible_imports,
)
from .drain_metrics import count_stored, observe_readable, timed_postgres, timed_redis
from .missing_vaults import MissingVaultLog

DRAIN_BYTES = 4 * 2**20
"""Approximate maximum of a drain's entries, in sealed bytes."""
DRAIN_CONTENT_BYTES = 16 * 2**20
"""Approximate maximum of a drain's entries, in decompressed bytes. Bounds the writer's memory."""
HOT_WINDOW_PAUSE_SECONDS = 10.0
"""Pause after an error of a hot window that has its own Redis. Without the pause, each drain might
wait several seconds for a timeout of this Redis, and the backlog would grow meanwhile."""
MANY_MISSING = 1000
"""If the ledger lacks more entry numbers of a session than this, or this many entries became dead
letters, the writer asks the API for new sessions. Drains read and write all missing numbers of a
session, so many numbers delay them. A gap of more than `ledger.MAX_MISSING` would count as
stored."""
MAX_ISOLATED = 256
"""Maximum number of entries that a drain tries one by one. Each takes four round trips: trying all
entries of a drain could take longer than the timeout of a job, and no entry would be stored."""
RENEWAL_SECONDS = 10.0
"""Shortest time between two requests of a writer for new sessions."""

_REFUSED = (psycopg.DataError, psycopg.IntegrityError)
"""Errors for values that Postgres will never accept."""

_log = logging.getLogger(__name__)


class DrainOutcome(StrEnum):
    """How a drain of one shard ended."""

    STORED = "stored"
    REPEATED = "repeated"
    """No entry was new: each was stored by an earlier drain, or became a dead letter."""
    EMPTY = "empty"
    """No entry waited."""
    BUSY = "busy"
    """Another writer drains the shard."""
    HELD = "held"
    """Nothing was stored, and at least one new entry is held because Postgres lacks its vault."""
    ERASED = "erased"
    """The vaults of all new entries were erased."""


@dataclass(slots=True)
class DrainResult:
    """How a drain ended for each of its shards."""

    outcomes: dict[int, DrainOutcome] = field(default_factory=dict)
    left: list[int] = field(default_factory=list)
    """Drained shards in which entries still wait."""
    entries: int = 0
    """Number of entries that the drain took from the streams."""


class Drain:
    """Drains shards, several in one transaction."""

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
        """After an error of the hot window, drains do not write to it for `hot_window_pause` s."""
        self.on_committed: list[Callable[[StoredBatch], None]] = [count_stored]
        """Called with each stored batch, right after the commit."""
        self.on_stored: list[Callable[[StoredBatch, Sequence[Phase]], None]] = []
        """Called with each stored batch and the phases of its drain, once its stream is trimmed."""
        self._hot_window_pause = hot_window_pause
        self._hot_window_paused_until = 0.0
        self._next_renewal_at = 0.0
        self._set_aside_entries = 0  # since the last request for new sessions
        self._missing_vaults = MissingVaultLog()
        self._created: set[int] = set()
        """Shards that have a row in the ledger, as far as this writer knows."""
        self._backlog = backlog
        self._dead_letters = dead_letters
        self._hot_window = hot_window
        self._opener = opener
        self._audit = audit
        self._shards = shards

    def run(self, connection: Connection, shards: Sequence[int]) -> DrainResult:
        """Store the oldest entries of shards, in one transaction. Return how the drain ended.

        Read shard after shard until there is enough for one drain, and queue the drains of the
        remaining shards again. Skip shards that another writer drains. An entry that can't be
        opened, that is too old for the ledger, or that Postgres refuses becomes a dead letter. An
        entry whose vault Postgres lacks is held.

        Raises:
            psycopg.Error, RedisError: a store can't serve; entries that are not stored still wait.
            UnfitRedisError: Redis now belongs to another installation, or its owner is unknown.
        """
        phases = Phases()
        batches, untouched = self._take(connection, shards)
        phases.end("read and open entries")
        if untouched:
            # Before the batches are stored, because another writer may be idle.
            self._backlog.enqueue_once([names.drain_job(shard) for shard in untouched])
        result = DrainResult({batch.shard: DrainOutcome.EMPTY for batch in batches})
        batches = [batch for batch in batches if batch.taken]
        if not batches:
            return result
        result.outcomes |= {batch.shard: DrainOutcome.BUSY for batch in batches}
        result.entries = sum(len(batch.taken) for batch in batches)
        stored_batches = self._store_or_isolate(connection, batches)
        if not stored_batches:
            return result
        phases.end("commit")
        kept = self._write_hot_window(stored_batches)
        phases.end("write the hot window")
        with timed_redis("remove"):
            removals = [each.removal(self._shards, kept=kept) for each in stored_batches]
            left = self._backlog.remove(removals)
        phases.end("trim the streams")
        for stored, entries_left in zip(stored_batches, left, strict=True):
            result.outcomes[stored.batch.shard] = _outcome(stored)
            if entries_left:
                result.left.append(stored.batch.shard)
            observe_readable(stored)
            for report_stored in self.on_stored:
                report_stored(stored, phases.ended)
        self._missing_vaults.report([held for stored in stored_batches for held in stored.held])
        return result

    def _store_or_isolate(self, connection: Connection, batches: list[Batch]) -> list[StoredBatch]:
        """Store batches like `_store`, but make dead letters of entries that Postgres refuses.

        Of a large batch with such entries, store only the first part. The next drain continues.
        """
        try:
            return self._store(connection, batches)
        except _REFUSED as error:
            _log.warning("Postgres refuses entries of a batch; trying smaller batches: %s", error)
        if len(batches) > 1:
            return [
                stored
                for batch in batches
                for stored in self._store_or_isolate(connection, [batch])
            ]
        (batch,) = batches
        if len(batch.taken) > MAX_ISOLATED:
            return self._store_or_isolate(connection, [batch.first(len(batch.taken) // 2)])
        return self._isolate(connection, batch)

    def _isolate(self, connection: Connection, batch: Batch) -> list[StoredBatch]:
        """Try to store each entry alone. Make dead letters of refused entries, store the others."""
        refused: list[tuple[WaitingEntry, Exception]] = []
        for entry in batch.opened:
            try:
                self._store(connection, [replace(batch, opened=[entry])], commit=False)
            except _REFUSED as error:
                refused.append((entry.waiting, error))
        bad = {waiting.entry_id for waiting, _ in refused}
        good = [entry for entry in batch.opened if entry.waiting.entry_id not in bad]
        stored = self._store(connection, [replace(batch, opened=good)])
        if stored:  # else another writer has the shard, and isolates the entries
            for waiting, reason in refused:
                self._set_aside(connection, batch.shard, waiting, reason)
        return stored

    def _take(self, connection: Connection, shards: Sequence[int]) -> tuple[list[Batch], list[int]]:
        """Read entries up to the limits of a drain. Return (batches by shard, unread shards)."""
        wanted = list(dict.fromkeys(shards))
        batches: list[Batch] = []
        content_bytes = DRAIN_CONTENT_BYTES
        with timed_redis("read"):
            waiting_shards = self._backlog.read_shards(wanted, max_bytes=DRAIN_BYTES)
        read_at = time.monotonic()
        for read in waiting_shards:
            if content_bytes <= 0:
                break
            batch = Batch(read.shard, progress=read.progress, started_at=read_at)
            batches.append(batch)
            for waiting in read.entries:
                batch.taken.append(waiting)
                content_bytes -= self._open(connection, batch, waiting)
                if content_bytes <= 0:
                    break
            # Released and replayed entries keep their time of receipt, and may be older than the
            # entries before them in the stream.
            batch.opened.sort(key=lambda entry: entry.waiting.received)
        for batch in batches:
            self._set_aside_forgotten(connection, batch)
        return batches, wanted[len(batches) :]

    def _open(self, connection: Connection, batch: Batch, waiting: WaitingEntry) -> int:
        """Open an entry and add it to its batch. If it can't be opened, make it a dead letter.

        Return its approximate size in decompressed bytes, 0 for a dead letter.
        """
        try:
            if not waiting.has_valid_time:
                raise ImpossibleTimeError("the entry's id names a time after the year 9999")
            opened = self._opener.open(batch.shard, waiting.sealed)
            entry = decode_entry(opened.content)
            if entry.readings.received:
                refuse_impossible_imports(entry.readings.received)
        except IotError as error:
            self._set_aside(connection, batch.shard, waiting, error)
            return 0
        batch.opened.append(BatchEntry(waiting, opened, entry))
        return entry.readings.size

    def _set_aside_forgotten(self, connection: Connection, batch: Batch) -> None:
        oldest = batch.taken[0].read_at - TOO_OLD_MS if batch.taken else 0
        dated = {
            waiting.entry_id: DatedEntry(
                (batch.shard, opened.session), waiting.received, entry.sealed_at
            )
            for waiting, opened, entry in batch.opened
            if waiting.received < oldest and entry.sealed_at < oldest
        }
        if not dated:
            return
        forgotten = find_forgotten(connection, list(dated.values()), batch.taken[0].read_at)
        kept = []
        for each in batch.opened:
            if dated.get(each.waiting.entry_id) in forgotten:
                self._set_aside(connection, batch.shard, each.waiting, EntryTooOldError(REASON))
            else:
                kept.append(each)
        batch.opened = kept

    def _set_aside(
        self, connection: Connection, shard: int, waiting: WaitingEntry, error: Exception
    ) -> None:
        if not self._dead_letters.lacks(shard, waiting):
            return
        entry_id, reason = waiting.entry_id.decode(), str(error)
        event = audit_event(AuditKind.ENTRY_SET_ASIDE, entry=entry_id, shard=shard, reason=reason)
        self._audit.record(connection, event)  # first: better twice than never
        if not self._dead_letters.add(shard, waiting, reason):  # another writer added it
            return
        fields = {"shard": shard, "stream_id": entry_id, **name_of(shard, waiting)}
        _log.error("entry %s of shard %d is set aside: %s", entry_id, shard, reason, extra=fields)
        metrics.counter("iot_entries_dead_total").inc()
        self._set_aside_entries += 1
        if self._set_aside_entries >= MANY_MISSING:
            self._request_new_sessions()

    def _store(
        self, connection: Connection, batches: Sequence[Batch], *, commit: bool = True
    ) -> list[StoredBatch]:
        """Store the new entries of batches. Return what was stored of each batch.

        Skip shards that other writers have locked. With `commit=False`, roll back the transaction,
        to see only whether Postgres accepts the entries.
        """
        wanted = {batch.shard for batch in batches}
        # Create rows and partitions before the transaction. Otherwise, other writers that create
        # the same ones would wait for the end of the transaction.
        if not wanted <= self._created:
            ledger.create_offsets(connection, wanted)
        months = set().union(*(batch.months() for batch in batches))
        try:
            return self._store_in(connection, batches, months, commit=commit)
        except ledger.MissingPartitionError:
            for month in months:
                ensure_partition(connection, month)
        return self._store_in(connection, batches, months, commit=commit)

    def _store_in(
        self,
        connection: Connection,
        batches: Sequence[Batch],
        months: Collection[int],
        *,
        commit: bool,
    ) -> list[StoredBatch]:
        """Store batches like `_store`. `months` are the months in which readings were received.

        Raises:
            MissingPartitionError: a month has no partition, for example because it is new.
        """
        partitions = [partition_name(month) for month in months]
        # Redis was read before Postgres: if another writer drains a shard in between, Postgres is
        # ahead of Redis. In the other order, Postgres would seem to have lost this drain.
        progress = {batch.shard: batch.progress for batch in batches}
        with rolled_back_if_open(connection):
            with timed_postgres("ledger"):
                locked = ledger.begin_drain(
                    connection,
                    list(progress),
                    self._shards,
                    set().union(*(batch.sessions() for batch in batches)),
                    vaults=set().union(*(batch.vaults() for batch in batches)),
                    partitions=partitions,
                )
                erased_vaults = erased_among(connection, locked.missing_vaults)
            offsets = raise_next_ids(locked.offsets, progress)
            # The next drain creates missing rows, for example after a restore from backup.
            self._created = self._created - progress.keys() | offsets.keys()
            stored_batches = [
                build_batch(
                    batch,
                    offsets[batch.shard],
                    locked.sessions,
                    locked.missing_vaults,
                    erased_vaults,
                )
                for batch in batches
                if batch.shard in offsets
            ]
            self._write_postgres(connection, stored_batches, locked.sessions, commit=commit)
        stored_at = time.monotonic()
        for stored in stored_batches:
            stored.stored_at = stored_at
            # Not later: if a later step fails, the next drain reports the entries as repeated.
            for report_committed in self.on_committed if commit else ():
                report_committed(stored)
        if any(len(numbers.missing) > MANY_MISSING for numbers in locked.sessions.values()):
            self._request_new_sessions()
        return stored_batches

    def _write_postgres(
        self,
        connection: Connection,
        stored_batches: Sequence[StoredBatch],
        sessions: Mapping[ledger.SessionKey, ledger.SessionNumbers],
        *,
        commit: bool,
    ) -> None:
        """Write segments and ledger if a batch has new entries. Roll back if `commit` is False."""
        changed = [stored for stored in stored_batches if stored.after != stored.before]
        if not changed:
            return
        offsets = {stored.batch.shard: stored.after for stored in changed}
        with timed_postgres("insert"):
            history.insert(connection, [each for stored in changed for each in stored.segments])
        with timed_postgres("commit"):
            ledger.save(
                connection,
                {key: numbers for key, numbers in sessions.items() if key[0] in offsets},
                offsets,
                received=max(stored.batch.opened[-1].waiting.received for stored in changed),
                shards=self._shards,
                commit=commit,
            )

    def _request_new_sessions(self) -> None:
        """Make API processes start new sessions, at most every `RENEWAL_SECONDS`."""
        if time.monotonic() < self._next_renewal_at:
            return
        self._next_renewal_at = time.monotonic() + RENEWAL_SECONDS
        self._set_aside_entries = 0
        self._backlog.request_new_sessions()
        _log.warning(
            "asked the API for new sessions: the ledger lacks many entry numbers, after a restore "
            "or because of dead letters"
        )

    def _write_hot_window(self, stored_batches: Sequence[StoredBatch]) -> bool:
        """Add the stored segments to the hot window, and return whether this was done.

        An error of its Redis is only logged: the drain must remove the entries, to make room in a
        full backlog or a full Redis. Reads use Postgres until a later drain writes to the hot
        window.
        """
        if time.monotonic() < self._hot_window_paused_until:
            metrics.counter("iot_hot_window_missed_total").inc(len(stored_batches))
            return False
        drained = [
            DrainedShard(stored.batch.shard, stored.before, stored.after, stored.segments)
            for stored in stored_batches
        ]
        try:
            with timed_redis("hot_window"):
                return self._hot_window.write(drained)
        except RedisError as error:
            self._hot_window_paused_until = time.monotonic() + self._hot_window_pause
            metrics.counter("iot_hot_window_missed_total").inc(len(stored_batches))
            report(_log, "the hot window lacks segments", error)
            return False


def _outcome(stored: StoredBatch) -> DrainOutcome:
    if stored.segments:
        return DrainOutcome.STORED
    if stored.held:
        return DrainOutcome.HELD
    return DrainOutcome.ERASED if stored.erased else DrainOutcome.REPEATED
