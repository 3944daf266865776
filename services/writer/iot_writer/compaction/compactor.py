"""Compactor: merges the small segments that an order names into fewer, larger segments.

The order has the chunk keys of these segments, and new chunk keys for the merged segments. The
writer forgets all of these keys after the merge.
"""

import logging
import uuid
from collections.abc import Callable, Sequence
from enum import StrEnum

from iot_cipher.encryption import (
    SealedSegment,
    TransitKeys,
    decrypt_with_chunk_key,
    encrypt_segment,
)
from iot_cipher.sealed_order import open_order
from iot_models import metrics
from iot_models.compaction_order import CompactionOrder, decode_order
from iot_models.errors import DecryptionError, FormatError
from iot_models.segment import SegmentColumns, decode_segment, unpacked_size
from iot_models.segment_encoding import encode_merged
from iot_stores import small_segments
from iot_stores.compaction_orders import CompactionOrders
from iot_stores.postgres import Connection, transaction

from .segment_merger import merge_segments

CONTENT_BYTES = 16 * 2**20
"""Maximum decompressed size of the segments that one order merges, in bytes. The smallest segments
are taken first, and the others stay. The limit bounds the memory of the writer and of reads."""

_log = logging.getLogger(__name__)


class CompactionOutcome(StrEnum):
    """How a compaction order ended."""

    MERGED = "merged"
    DAMAGED = "damaged"
    """A segment could not be decrypted, and stays as it is. The others were merged if the merge
    reduced their number."""
    GONE = "gone"
    """Nothing was merged. For example, a segment no longer exists, or the merge would not reduce
    the number of segments."""
    REFUSED = "refused"
    """The order could not be decrypted."""
    EMPTY = "empty"
    """No order was waiting."""


class Compactor:
    """Executes compaction orders, one at a time."""

    def __init__(self, orders: CompactionOrders, keys: Callable[[], TransitKeys]) -> None:
        self._orders = orders
        self._keys = keys

    def run(self, connection: Connection) -> tuple[CompactionOutcome, int]:
        """Execute the oldest order. Return its outcome, and the number of orders left.

        One transaction replaces the small segments by merged segments, so a read sees only old or
        only new segments. All readings keep their ids and times. If the writer is killed, no
        reading is lost or doubled, and an API process orders the merge again. A segment that can't
        be decrypted stays as it is.

        Raises:
            psycopg.Error: Postgres is away; the history is unchanged.
            RedisError: Redis is away; the order may have been executed.
        """
        sealed = self._orders.pop()
        if sealed is None:
            return CompactionOutcome.EMPTY, 0
        try:
            order = decode_order(open_order(self._keys(), sealed))
        except (DecryptionError, FormatError) as error:
            _log.error("refused a compaction order: %s", error)
            return CompactionOutcome.REFUSED, self._orders.count()
        return _execute(connection, order), self._orders.count()


def _execute(connection: Connection, order: CompactionOrder) -> CompactionOutcome:
    with transaction(connection, copies=True):
        old, opened, damaged = _decrypt_all(connection, order)
        new = _merge(order, old, opened) if len(old) > 1 else []
        done = bool(new) and len(new) < len(old)
        if done:
            small_segments.replace(connection, old, new)
    if done:
        metrics.counter("iot_segments_compacted_total").inc(len(old))
    if damaged:
        return CompactionOutcome.DAMAGED
    return CompactionOutcome.MERGED if done else CompactionOutcome.GONE


def _decrypt_all(
    connection: Connection, order: CompactionOrder
) -> tuple[list[SealedSegment], list[SegmentColumns], int]:
    """Decrypt the segments of an order, up to `CONTENT_BYTES` in total.

    Return the decrypted segments, their content, and the number of segments that can't be
    decrypted.

    Return ([], [], 0) if the vault was erased, or if a segment no longer exists. A missing
    segment may mean that a failover of Redis has brought back an executed order. The new keys in
    such an order must not be used twice.
    """
    vault_id = uuid.UUID(bytes=order.vault_id)
    sources = {(source.first_id, source.received_min): source for source in order.sources}
    found: list[SealedSegment] = []
    opened: list[SegmentColumns] = []
    size = damaged = 0
    taken = small_segments.lock_segments(connection, vault_id, order.sources)
    if not taken or not small_segments.all_exist(connection, vault_id, order.sources):
        return [], [], 0
    # The smallest first: if a large segment filled the limit alone, nothing would be merged.
    for segment in sorted(taken, key=lambda each: len(each.payload)):
        bounds, payload = segment.bounds, segment.payload
        source = sources[bounds.first_id, bounds.received_min]
        try:
            content = decrypt_with_chunk_key(vault_id, source.chunk_key, bounds, payload)
            unpacked = unpacked_size(content)
            if size + unpacked > CONTENT_BYTES:
                continue
            columns = decode_segment(bounds, content)
        except (DecryptionError, FormatError):
            _log.error(
                "segment %d of vault %s can't be decrypted and is not merged",
                bounds.first_id,
                vault_id,
            )
            damaged += 1
            continue
        size += unpacked
        found.append(segment)
        opened.append(columns)
    return found, opened, damaged


def _merge(
    order: CompactionOrder, old: Sequence[SealedSegment], opened: Sequence[SegmentColumns]
) -> list[SealedSegment]:
    """Merge `opened`, the content of the segments `old`. Return the merged segments, encrypted.

    Return [] if the order has fewer new keys than there are merged segments.
    """
    vault_id = uuid.UUID(bytes=order.vault_id)
    pieces = list(merge_segments(opened))
    targets = order.targets * len(pieces) if order.one_key else order.targets
    if len(pieces) > len(targets):
        _log.error("a compaction order for vault %s has too few keys: nothing is merged", vault_id)
        return []
    new = []
    for columns, target in zip(pieces, targets, strict=False):
        # An API process of an older version sent an order with one key. It can read only segments
        # that share the key.
        bounds, content = encode_merged(columns, old[-1].bounds.shard, key_shared=order.one_key)
        payload = encrypt_segment(vault_id, target.salt, target.chunk_key, bounds, content)
        new.append(SealedSegment(vault_id, bounds, payload))
    before, after = (sum(segment.bounds.count for segment in segments) for segments in (old, new))
    if before != after:
        raise RuntimeError(
            f"merged segments of vault {vault_id} have {after} readings instead of {before}, so "
            "the merge is not stored"
        )
    return new
