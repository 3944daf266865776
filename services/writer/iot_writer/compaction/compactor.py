"""Compactor: small segments of a vault become large ones, with the keys of an order.

The writer holds the keys of these segments alone, and only while it merges them.
"""

import logging
import uuid
from collections.abc import Callable, Sequence
from enum import StrEnum

from iot_cipher.sealed_order import open_order
from iot_cipher.sealed_segment import SealedSegment, decrypt_with_chunk_key, encrypt_segment
from iot_cipher.writer_keys import TransitKeys
from iot_models import metrics
from iot_models.compaction_order import CompactionOrder, decode_order
from iot_models.compression import unpacked_size
from iot_models.errors import DecryptionError, FormatError
from iot_models.segment import SegmentColumns, decode_segment, encode_merged
from iot_stores import small_segments
from iot_stores.compaction_orders import CompactionOrders
from iot_stores.postgres import Connection

from .segment_merger import merge_segments

CONTENT_BYTES = 16 * 2**20
"""Unpacked bytes that are merged at a time: bounds the writer's memory, and later a read's."""

_log = logging.getLogger(__name__)


class CompactionOutcome(StrEnum):
    """What became of an order."""

    MERGED = "merged"
    DAMAGED = "damaged"
    """A segment could not be opened; it was left, the others were merged."""
    GONE = "gone"
    """One of its segments is gone, by another writer or retention; or they don't become fewer."""
    REFUSED = "refused"
    """It could not be opened."""
    EMPTY = "empty"
    """There was none."""


class Compactor:
    """Does one order at a time."""

    def __init__(self, orders: CompactionOrders, keys: Callable[[], TransitKeys]) -> None:
        self._orders = orders
        self._keys = keys

    def run(self, connection: Connection) -> tuple[CompactionOutcome, int]:
        """Do the order that waits longest; what became of it, and how many orders are left.

        In one transaction merged segments take the place of those they were merged of, each
        reading with its id and its times: whoever reads meets the ones or the others. Killed at
        whatever point, nothing is lost and nothing doubled; the API makes the order again. A
        segment that can't be opened stays as it is.

        Raises:
            psycopg.Error, RedisError: a part is away; nothing was changed.
        """
        sealed = self._orders.pop()
        if sealed is None:
            return CompactionOutcome.EMPTY, 0
        try:
            order = decode_order(open_order(self._keys(), sealed))
        except (DecryptionError, FormatError) as error:
            _log.error("a compaction order is refused: %s", error)
            return CompactionOutcome.REFUSED, self._orders.count()
        return _do(connection, order), self._orders.count()


def _do(connection: Connection, order: CompactionOrder) -> CompactionOutcome:
    with connection.transaction():
        old, opened, damaged = _open_all(connection, order)
        new = _merged(order, old, opened) if len(old) > 1 else []
        done = bool(new) and len(new) < len(old)
        if done:
            small_segments.replace(connection, old, new)
    if done:
        metrics.counter("iot_segments_compacted_total").inc(len(old))
    if damaged:
        return CompactionOutcome.DAMAGED
    return CompactionOutcome.MERGED if done else CompactionOutcome.GONE


def _open_all(
    connection: Connection, order: CompactionOrder
) -> tuple[list[SealedSegment], list[SegmentColumns], int]:
    """The segments of an order that can be opened, what is in them, and how many can't; no more of
    them than may be unpacked at a time. None when a source is gone: a failover of Redis may bring
    an order back, and the keys for merged segments may have been used.
    """
    vault_id = uuid.UUID(bytes=order.vault_id)
    sources = {(each.first_id, each.received_min): each for each in order.sources}
    found: list[SealedSegment] = []
    opened: list[SegmentColumns] = []
    held = damaged = 0
    taken = small_segments.lock_segments(connection, vault_id, order.sources)
    if not taken or not small_segments.all_exist(connection, vault_id, order.sources):
        return [], [], 0
    for segment in taken:
        bounds, payload = segment.bounds, segment.payload
        source = sources[bounds.first_id, bounds.received_min]
        try:
            content = decrypt_with_chunk_key(vault_id, source.chunk_key, bounds, payload)
            size = unpacked_size(content)
            if held + size > CONTENT_BYTES:
                continue
            columns = decode_segment(bounds, content)
        except (DecryptionError, FormatError):
            _log.error("segment %s/%d can't be opened, it is not merged", vault_id, bounds.first_id)
            damaged += 1
            continue
        held += size
        found.append(segment)
        opened.append(columns)
    return found, opened, damaged


def _merged(
    order: CompactionOrder, old: Sequence[SealedSegment], opened: Sequence[SegmentColumns]
) -> list[SealedSegment]:
    """The merged segments, each under a key of its own; none if the order has too few keys."""
    vault_id = uuid.UUID(bytes=order.vault_id)
    pieces = list(merge_segments(opened))
    targets = order.targets * len(pieces) if order.one_key else order.targets
    if len(pieces) > len(targets):
        _log.error("a compaction order for vault %s has too few keys, nothing is merged", vault_id)
        return []
    new = []
    for columns, target in zip(pieces, targets, strict=False):
        # An older process made an order of one key, and can read no other kind of segment.
        bounds, content = encode_merged(columns, old[-1].bounds.shard, key_shared=order.one_key)
        payload = encrypt_segment(vault_id, target.salt, target.chunk_key, bounds, content)
        new.append(SealedSegment(vault_id, bounds, payload))
    before, after = (sum(each.bounds.count for each in some) for some in (old, new))
    if before != after:
        raise RuntimeError(f"{before} readings became {after}")
    return new
