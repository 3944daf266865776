"""Compaction orders on their way from the API to a writer: a short list of sealed ones in Redis.

An order that is lost does no harm: its segments stay as they are until it is made again.
"""

from typing import cast

from redis import Redis

from iot_models.names import COMPACT_JOB, KeyNames

from .redis_client import milliseconds
from .scripts import load_script

MAX_ORDERS = 64
"""Orders that may wait; each has 65 kB at most."""
SCAN_SECONDS = 300
"""A vault is looked at for small segments this often at most, however many processes have it."""
FULL_SCAN_SECONDS = 86_400
"""And its whole history this often,"""
COMPACTED_SECONDS = 30 * 86_400
"""or this often, when there was nothing to merge in it: the planner looks at every month for it."""


class CompactionOrders:
    """The orders that wait, and which vaults need not be looked at."""

    def __init__(self, client: "Redis", names: KeyNames) -> None:
        self._client = client
        self._names = names
        self._push = load_script(client, "compaction_push.lua")

    def claim_scan(self, vault_id: bytes) -> bool:
        """Whether a vault is to be looked at now; true for one process at a time."""
        return self._claim(self._names.compaction_looked(vault_id), SCAN_SECONDS)

    def claim_full_scan(self, vault_id: bytes) -> bool:
        """Whether its whole history is."""
        return self._claim(self._names.compaction_looked_back(vault_id), FULL_SCAN_SECONDS)

    def postpone_full_scan(self, vault_id: bytes) -> None:
        """There is nothing to merge in its history."""
        self._client.set(self._names.compaction_looked_back(vault_id), 1, ex=COMPACTED_SECONDS)

    def request_full_scan(self, vault_id: bytes) -> None:
        """Its history holds more than was found."""
        # Not deleted: where the API has a user of its own, that user may delete nothing.
        self._client.set(self._names.compaction_looked_back(vault_id), 1, px=1)

    def now(self) -> int:
        """Unix milliseconds, by the clock that stamps readings."""
        return milliseconds(self._client.time())

    def push(self, sealed: bytes) -> bool:
        """Add an order, and queue the job that does it; False when there are enough."""
        keys = [self._names.compaction_orders, self._names.job_list]
        return bool(self._push(keys=keys, args=[sealed, MAX_ORDERS, COMPACT_JOB]))

    def pop(self) -> bytes | None:
        """Take the oldest order."""
        return cast("bytes | None", self._client.lpop(self._names.compaction_orders))

    def count(self) -> int:
        """How many there are."""
        return self._client.llen(self._names.compaction_orders)

    def _claim(self, name: str, seconds: int) -> bool:
        return bool(self._client.set(name, 1, ex=seconds, nx=True))
