"""A batch: what one drain took from the stream of a shard, and what becomes of it."""

import logging
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from iot_cipher.envelope import OpenedEntry
from iot_cipher.sealed_segment import SealedSegment
from iot_models import metrics
from iot_models.entry import Entry
from iot_stores import ledger
from iot_stores.ledger import Offset, SessionNumbers
from iot_stores.stream_entries import HeldEntry, ShardProgress, WaitingEntry, stream_order

from .segment_builder import Arrival, build_segments

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Batch:
    """What one drain took from the stream of a shard."""

    shard: int
    taken: list[WaitingEntry] = field(default_factory=list)
    opened: list[tuple[WaitingEntry, OpenedEntry, Entry]] = field(default_factory=list)
    """By the time of receipt."""
    began: float = field(default_factory=time.monotonic)

    def vaults(self) -> set[uuid.UUID]:
        """Whose readings they are."""
        return {uuid.UUID(bytes=entry.vault_id) for _, _, entry in self.opened}


@dataclass(slots=True)
class StoredBatch:
    """What one drain committed of a shard."""

    batch: Batch
    before: Offset
    after: Offset
    segments: list[SealedSegment]
    repeated: int
    held: list[HeldEntry]


def build_batch(
    batch: Batch,
    before: Offset,
    sessions: dict[ledger.SessionOf, SessionNumbers],
    lacking: set[uuid.UUID],
) -> StoredBatch:
    """The segments of what is new in a batch, and what is held; both are noted in its sessions."""
    shard, absent = batch.shard, {vault_id.bytes for vault_id in lacking}
    arrivals, held = [], []
    for waiting, opened, entry in batch.opened:
        numbers = sessions[shard, opened.session]
        if entry.vault_id in absent:
            if numbers.mark_missing(opened.number):
                held.append(HeldEntry(waiting, entry.vault_id))
        elif numbers.mark_stored(opened.number):
            arrivals.append(Arrival(waiting.received, entry))
    repeated = len(batch.opened) - len(arrivals) - len(held)
    if not arrivals and not held:
        return StoredBatch(batch, before, before, [], repeated, [])
    segments, next_id = build_segments(arrivals, shard=shard, next_id=before.next_id)
    # Ids rise within a stream: impossible ones are at its end.
    last = next(each for each in reversed(batch.taken) if each.has_valid_time)
    received_max = max(before.received_max, batch.opened[-1][0].received)
    after = Offset(last.entry_id.decode(), received_max, next_id)
    return StoredBatch(batch, before, after, segments, repeated, held)


def skip_given_ids(
    offsets: dict[int, Offset], given: Mapping[int, ShardProgress]
) -> dict[int, Offset]:
    """Where shards stand, their next ids past all that were given.

    A Postgres that was restored, or a replica that took over and lacks the newest transactions,
    would give ids again that the hot window and clients know.
    """
    for shard, offset in offsets.items():
        position, next_id = given[shard].position, given[shard].next_id
        if position is not None and stream_order(offset.position) < stream_order(position):
            metrics.counter("iot_ledger_behind_total").inc()
            _log.error(
                "Postgres has shard %d as of %s, it was drained to %s: Postgres was restored, or a "
                "replica took over that lacked the newest transactions. What was stored in between "
                "is lost; see docs/reliability.md, After a restore",
                shard,
                offset.position,
                position,
            )
        offsets[shard] = replace(offset, next_id=max(offset.next_id, next_id))
    return offsets
