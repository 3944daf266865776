"""A batch: the entries that one drain takes from the stream of a shard."""

import logging
import struct
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from iot_cipher.encryption import Entry, EntryName, OpenedEntry, SealedSegment, entry_name, shard_of
from iot_models import metrics
from iot_models.errors import IotError
from iot_models.segment import ID_STRIDE
from iot_stores import ledger
from iot_stores.ledger import Offset, SessionNumbers
from iot_stores.months import DAY_MS, END_MS, month_begin
from iot_stores.stream_entries import HeldEntry, Removal, ShardProgress, WaitingEntry, stream_order

from .segment_builder import Arrival, build_segments, group_arrivals

_log = logging.getLogger(__name__)


class EntryTooOldError(IotError):
    """The entry is so old that the ledger can't tell whether it is stored."""


class ImpossibleTimeError(IotError):
    """The time in the entry's stream id, or an imported time, is not a possible time of receipt."""


class BatchEntry(NamedTuple):
    """An entry of a batch in its three forms: in the stream, unsealed, decoded."""

    waiting: WaitingEntry
    opened: OpenedEntry
    entry: Entry


@dataclass(slots=True)
class Batch:
    """The entries that one drain takes from the stream of a shard."""

    shard: int
    taken: list[WaitingEntry] = field(default_factory=list)
    """All entries, in the order of the stream. A finished drain removes all of them."""
    opened: list[BatchEntry] = field(default_factory=list)
    """The entries to store, in the order of their times of receipt. Dead letters are left out."""
    progress: ShardProgress = field(default_factory=lambda: ShardProgress(None, 0))
    """How far the shard was drained, by the counters in Redis when the entries were read."""
    started_at: float = field(default_factory=time.monotonic)

    def first(self, count: int) -> "Batch":
        """Return a batch of the first `count` entries of the stream."""
        taken = self.taken[:count]
        ids = {waiting.entry_id for waiting in taken}
        opened = [each for each in self.opened if each.waiting.entry_id in ids]
        return replace(self, taken=taken, opened=opened)

    def sessions(self) -> set[ledger.SessionKey]:
        """Return the sessions of the entries to store."""
        return {(self.shard, opened.session) for _, opened, _ in self.opened}

    def months(self) -> set[int]:
        """Return the start (Unix ms) of each month in which the readings to store were received.

        An entry with imported readings also adds the month in which Redis received the entry.
        """
        if not self.opened:
            return set()
        imported = {
            month_begin(entry.readings.received[0])
            for _, _, entry in self.opened
            if entry.readings.received
        }
        # The entries are ordered by time of receipt, and nearly always of one month.
        ends = {month_begin(self.opened[end].waiting.received) for end in (0, -1)}
        if len(ends) == 1:
            return ends | imported
        return imported | {month_begin(waiting.received) for waiting, _, _ in self.opened}

    def vaults(self) -> set[uuid.UUID]:
        """Return the vaults of the entries to store."""
        vault_ids = {entry.vault_id for _, _, entry in self.opened}
        return {uuid.UUID(bytes=vault_id) for vault_id in vault_ids}


@dataclass(slots=True)
class StoredBatch:
    """A batch, and what a drain stores for it in Postgres."""

    batch: Batch
    before: Offset
    """The shard's state in the ledger before the drain."""
    after: Offset
    """The shard's state in the ledger after the drain; equal to `before` if nothing was new."""
    segments: list[SealedSegment]
    repeated: int
    """Number of entries that were stored by an earlier drain."""
    held: list[HeldEntry]
    """Entries that are held, because Postgres lacks their vaults."""
    erased: int
    """Number of entries that are dropped, because their vaults were erased."""
    stored: list[BatchEntry] = field(default_factory=list)
    """The entries whose readings are in the segments."""
    stored_at: float = 0.0
    """When the transaction was committed, by `time.monotonic`."""

    def removal(self, shards: int, *, kept: bool) -> Removal:
        """Return what to remove from the stream.

        `shards`: number of shards (`IOT_SHARDS`). `kept`: whether the segments were added to the
        hot window.
        """
        batch, after = self.batch, self.after
        vaults = {entry.vault_id for _, _, entry in batch.opened}
        is_moved = any(shard_of(vault_id, shards) != batch.shard for vault_id in vaults)
        # The writer that stored the repeated entries may have been killed before it wrote to the
        # hot window.
        is_uncovered = is_moved or self.repeated > 0 or not kept
        last = batch.taken[-1]
        return Removal(batch.shard, last, after.position, after.next_id, self.held, is_uncovered)

    def entries_by_segment(self) -> Iterator[tuple[SealedSegment, list[EntryName]]]:
        """Yield each segment with the names of the entries whose readings it has."""
        entries = {id(each.entry): each.opened for each in self.stored}
        arrivals = [Arrival(each.waiting.received, each.entry) for each in self.stored]
        for segment, group in zip(self.segments, group_arrivals(arrivals), strict=True):
            opened = [entries[id(arrival.entry)] for arrival in group]
            yield (
                segment,
                [EntryName(self.batch.shard, each.session, each.number) for each in opened],
            )


def build_batch(
    batch: Batch,
    before: Offset,
    sessions: dict[ledger.SessionKey, SessionNumbers],
    missing_vaults: set[uuid.UUID],
    erased_vaults: set[uuid.UUID],
) -> StoredBatch:
    """Return what a drain must store for a batch, without writing to Postgres.

    `before` is the state of the shard in the ledger before this drain. `sessions` has the numbers
    of stored entries by session; this function adds the numbers of new entries. An entry whose
    vault is missing is held. An entry whose vault was erased is dropped, but its number is added
    like that of a stored entry, so that clients do not wait for it.
    """
    shard, missing = batch.shard, {vault_id.bytes for vault_id in missing_vaults - erased_vaults}
    erased = {vault_id.bytes for vault_id in erased_vaults}
    arrivals: list[Arrival] = []
    held: list[HeldEntry] = []
    stored: list[BatchEntry] = []
    dropped = 0
    for each in batch.opened:
        waiting, opened, entry = each
        numbers = sessions[shard, opened.session]
        if entry.vault_id in missing:
            if numbers.mark_missing(opened.number):
                held.append(HeldEntry(waiting, entry.vault_id))
        elif numbers.mark_stored(opened.number):  # False: it is stored already, so skip it
            if entry.vault_id in erased:
                dropped += 1
            else:
                arrivals.append(Arrival(waiting.received, entry))
                stored.append(each)
    repeated = len(batch.opened) - len(arrivals) - len(held) - dropped
    if not arrivals and not held and not dropped:
        return StoredBatch(batch, before, before, [], repeated, [], 0)
    segments, next_id = build_segments(arrivals, shard=shard, next_id=before.next_id)
    # A planted id beyond the year 9999 must not become the shard's position. Ids rise within a
    # stream, so all later positions would be beyond that year. Such ids are at the end of the
    # stream.
    last = next(waiting for waiting in reversed(batch.taken) if waiting.has_valid_time)
    # Imported readings may have later times of receipt than their entry.
    received = (segment.bounds.received_max for segment in segments)
    received_max = max(before.received_max, batch.opened[-1].waiting.received, *received)
    after = Offset(last.entry_id.decode(), received_max, next_id)
    return StoredBatch(batch, before, after, segments, repeated, held, dropped, stored)


def raise_next_ids(
    offsets: dict[int, Offset], progress: Mapping[int, ShardProgress]
) -> dict[int, Offset]:
    """Raise each shard's next reading id in `offsets` to the one in `progress`. Return `offsets`.

    `offsets` comes from Postgres, `progress` from Redis. The next ids in Postgres are too low after
    a restore, or after a failover to a replica without the newest transactions. New readings would
    then get ids of readings that clients have seen.
    """
    for shard, offset in offsets.items():
        position, next_id = progress[shard].position, progress[shard].next_id
        if position is not None and stream_order(offset.position) < stream_order(position):
            metrics.counter("iot_ledger_behind_total").inc()
            _log.error(
                "Postgres has shard %d at position %s, but the shard was drained to %s: Postgres "
                "was restored, or failed over to a replica without the newest transactions. "
                "Readings stored in between are lost; see docs/reliability.md, After a restore",
                shard,
                offset.position,
                position,
            )
        next_id = max(offset.next_id, next_id)
        # Another program may have written an id of another shard to Redis.
        next_id += (shard - next_id) % ID_STRIDE
        offsets[shard] = replace(offset, next_id=next_id)
    return offsets


def refuse_impossible_imports(received: Sequence[int]) -> None:
    """Raise `ImpossibleTimeError` unless imported times are in range and on one day (UTC).

    All readings of an entry go into one segment, which retention deletes as a whole.
    """
    first, last = min(received), max(received)
    if not 0 <= first <= last < END_MS or first // DAY_MS != last // DAY_MS:
        raise ImpossibleTimeError(
            "the entry's imported times of receipt are out of range, or not all on one day (UTC)"
        )


def name_of(shard: int, waiting: WaitingEntry) -> dict[str, str]:
    """Return the log field `entry` with the name of an entry; {} if the entry is truncated."""
    try:
        return {"entry": str(entry_name(shard, waiting.sealed))}
    except struct.error:
        return {}
