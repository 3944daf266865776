"""Verify the sources of a compaction order: small segments whose keys a writer may get.

An attacker who can write to the database can plant a small row with the salt of a large segment, to
get the large segment's key. So this process derives each key from the salt in the segment's
payload, and decrypts the payload with the key, before a writer gets the key.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass

from iot_cipher.encryption import OpenVault, SealedSegment, decrypt_with_chunk_key, salt_of
from iot_models import metrics
from iot_models.compaction_order import SMALL_READINGS, Source
from iot_models.errors import DecryptionError, FormatError
from iot_models.segment_encoding import may_share_key
from iot_stores.months import DAY_MS
from iot_stores.postgres import Pool
from iot_stores.small_segments import SegmentName, SmallSegment, fetch_small

BATCH = 32
"""Number of segments fetched at a time, with at most 2 MiB. Other greenlets run between batches."""
MAX_DAYS = 4
"""A segment whose readings were received on more than 4 days is not merged. A merged segment has
readings of one day only and a key of its own, so an order needs a key for each day. This limit
bounds the number of these keys. A segment with more days arises when writers were down for days."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class VerifiedSource:
    """A small segment that was decrypted: its key, and the days of receipt of its readings."""

    source: Source
    days: range


def verify_sources(
    pool: Pool, vault: OpenVault, small: Sequence[SmallSegment]
) -> dict[SegmentName, VerifiedSource]:
    """Decrypt small segments. Return those whose keys a writer may get, by name.

    Segments that can't be decrypted are counted and logged.

    Raises:
        psycopg.Error: Postgres is away.
    """
    verified: dict[SegmentName, VerifiedSource] = {}
    damaged: list[int] = []
    for start in range(0, len(small), BATCH):
        names = [segment.name for segment in small[start : start + BATCH]]
        with pool.connection() as connection:
            found = fetch_small(connection, vault.vault_id, names)
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
            "%d small segments of vault %s can't be decrypted and are not merged; "
            "one begins with id %d",
            len(damaged),
            vault.vault_id,
            damaged[0],
        )
    return verified


def _verify(vault: OpenVault, segment: SealedSegment) -> VerifiedSource | None:
    """Return the segment with its key, or None if a writer must not get the key."""
    bounds, payload = segment.bounds, segment.payload
    salt = salt_of(payload)
    key = vault.chunk_key(salt)
    shared = may_share_key(decrypt_with_chunk_key(vault.vault_id, key, bounds, payload))
    # The bounds are authentic from here on.
    days = range(bounds.received_min // DAY_MS, bounds.received_max // DAY_MS + 1)
    if shared or bounds.count >= SMALL_READINGS or len(days) > MAX_DAYS:
        return None
    return VerifiedSource(Source(bounds.first_id, bounds.received_min, salt, key), days)
