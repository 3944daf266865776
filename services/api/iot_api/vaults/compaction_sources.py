"""Sources of compaction orders: the small segments whose keys may be given to a writer.

A row of the database proves nothing. Whoever may write there can plant a small row that carries the
salt of a large segment, and wait for its key. So this process opens each segment before it gives
the key away, and takes the key from the very payload that it opened.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass

from iot_cipher.sealed_segment import SealedSegment, decrypt_with_chunk_key, salt_of
from iot_cipher.vault import OpenVault
from iot_models import metrics
from iot_models.compaction_order import Source
from iot_models.errors import DecryptionError, FormatError
from iot_models.segment import may_share_key
from iot_stores.months import DAY_MS
from iot_stores.postgres import Pool
from iot_stores.small_segments import SMALL, Name, SmallSegment, fetch_small

PORTION = 32
"""Segments fetched at once, 2 MiB at most. Other greenlets get a turn between portions."""
MOST_DAYS = 4
"""Days of receipt that a segment may span: an order has a key for each day. A segment spans days
when the writers were away for as long."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class VerifiedSource:
    """A small segment that was opened: its key, and the days on which its readings came."""

    source: Source
    days: range


def verify_sources(
    pool: Pool, vault: OpenVault, small: Sequence[SmallSegment]
) -> dict[Name, VerifiedSource]:
    """Open small segments; return those whose keys open nothing that is not small.

    Segments that can't be opened are counted and logged.

    Raises:
        psycopg.Error: Postgres is away.
    """
    verified: dict[Name, VerifiedSource] = {}
    damaged: list[int] = []
    for start in range(0, len(small), PORTION):
        named = [each.name for each in small[start : start + PORTION]]
        with pool.connection() as connection:
            found = fetch_small(connection, vault.vault_id, named)
        for segment in found:
            bounds = segment.bounds
            try:
                source = _verify(vault, segment)
            except (DecryptionError, FormatError):
                damaged.append(bounds.first_id)
                continue
            if source is not None:
                verified[bounds.first_id, bounds.received_min] = source
        time.sleep(0)
    if damaged:
        metrics.counter("iot_damaged_total").labels("segment").inc(len(damaged))
        _log.error(
            "%d small segments of vault %s can't be opened, they are not merged; the first is %d",
            len(damaged),
            vault.vault_id,
            damaged[0],
        )
    return verified


def _verify(vault: OpenVault, segment: SealedSegment) -> VerifiedSource | None:
    """The segment's key, or None when it must not be given away."""
    bounds, payload = segment.bounds, segment.payload
    salt = salt_of(payload)
    key = vault.chunk_key(salt)
    shared = may_share_key(decrypt_with_chunk_key(vault.vault_id, key, bounds, payload))
    # The bounds are authentic from here on.
    days = range(bounds.received_min // DAY_MS, bounds.received_max // DAY_MS + 1)
    if shared or bounds.count >= SMALL or len(days) > MOST_DAYS:
        return None
    return VerifiedSource(Source(bounds.first_id, bounds.received_min, salt, key), days)
