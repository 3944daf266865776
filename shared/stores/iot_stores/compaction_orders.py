"""Compaction orders: sealed messages from the API to a writer, in a short list in Redis.

A lost order does no harm: its segments stay small until the API makes the order again.
"""

from typing import cast

from redis import Redis

from iot_models.names import COMPACT_JOB, KeyNames

from .key_deletion import delete_key
from .redis_client import milliseconds
from .scripts import load_script

MAX_ORDERS = 64
"""Maximum number of orders in the list. An order has at most 65 kB."""
SCAN_SECONDS = 300
"""Shortest time between two scans of a vault's latest segments, by all processes together."""
FULL_SCAN_SECONDS = 86_400
"""Shortest time between two scans of a vault's whole history."""
COMPACTED_SECONDS = 30 * 86_400
"""Shortest time between two scans of a vault's whole history if the first found nothing to merge.
Such a scan is expensive: it reads the index of every month."""


class CompactionOrders:
    """The list of waiting orders, and for each vault the times of its scans for small segments.

    In a scan, an API process searches Postgres for small segments of a vault to merge. Redis keys
    that expire prevent frequent scans of the same vault.
    """

    def __init__(self, client: "Redis", names: KeyNames) -> None:
        self._client = client
        self._names = names
        self._push = load_script(client, "compaction_push.lua")

    def claim_scan(self, vault_id: bytes) -> bool:
        """Return whether the caller should scan the vault's latest segments now.

        Within `SCAN_SECONDS`, only one process gets True.
        """
        return self._claim(self._names.compaction_looked(vault_id), SCAN_SECONDS)

    def claim_full_scan(self, vault_id: bytes) -> bool:
        """Return whether the caller should scan the vault's whole history now.

        Within `FULL_SCAN_SECONDS`, only one process gets True, unless `request_full_scan` allows
        another full scan.
        """
        return self._claim(self._names.compaction_looked_back(vault_id), FULL_SCAN_SECONDS)

    def postpone_full_scan(self, vault_id: bytes) -> None:
        """Prevent full scans of a vault for `COMPACTED_SECONDS`.

        Call this after a full scan that found nothing to merge, except among the vault's latest
        segments.
        """
        self._client.set(self._names.compaction_looked_back(vault_id), 1, ex=COMPACTED_SECONDS)

    def request_full_scan(self, vault_id: bytes) -> None:
        """Allow a full scan of a vault now.

        Call this after a full scan that may have left out small segments.
        """
        delete_key(self._client, self._names.compaction_looked_back(vault_id))

    def now(self) -> int:
        """Return the time of the backlog's Redis, in Unix milliseconds."""
        return milliseconds(self._client.time())

    def push(self, sealed: bytes) -> bool:
        """Add an order, and queue the compaction job. If the list is full, only return False."""
        keys = [self._names.compaction_orders, self._names.job_list]
        return bool(self._push(keys=keys, args=[sealed, MAX_ORDERS, COMPACT_JOB]))

    def pop(self) -> bytes | None:
        """Remove and return the oldest order; None if no order waits."""
        return cast("bytes | None", self._client.lpop(self._names.compaction_orders))

    def count(self) -> int:
        """Return the number of waiting orders."""
        return self._client.llen(self._names.compaction_orders)

    def _claim(self, name: str, seconds: int) -> bool:
        with self._client.pipeline(transaction=False) as pipeline:
            pipeline.set(name, 1, ex=seconds, nx=True)
            pipeline.ttl(name)
            claimed, left = pipeline.execute()
        if not claimed and (left == -1 or left > COMPACTED_SECONDS):
            # A copy of Redis lost the expiry, or Redis's clock was set back: the key would prevent
            # scans for good, or for too long.
            claimed = self._client.set(name, 1, ex=seconds)
        return bool(claimed)
