"""Held entries: acknowledged entries that are not stored, because Postgres lacks their vaults.

Without the vault's row nobody could decrypt the readings. Postgres lacks the row of a vault after a
restore, or after a failover to a replica that did not have the row yet.
"""

import re
import uuid
from typing import cast

from redis import Redis

from iot_models.names import DRAIN_JOB_PREFIX, KeyNames

from .backlog_counters import parse_number
from .scripts import load_script

_RELEASE_BATCH = 500
"""Maximum number of entries that one call of `_release` moves: each call blocks Redis."""
_VAULT = re.compile(rb"[0-9a-f]{32}")


class HeldEntries:
    """The streams of held entries, one for each vault. `Backlog.remove` moves entries from the
    backlog to these streams."""

    def __init__(self, client: "Redis", names: KeyNames) -> None:
        self._client = client
        self._names = names
        self._release = load_script(client, "held_entries_release.lua")
        self._drop = load_script(client, "held_entries_drop.lua")

    def vaults(self) -> dict[uuid.UUID, int]:
        """Return the number of held entries of each vault that has some."""
        found = self._client.hgetall(self._names.held_vaults)
        return {
            uuid.UUID(hex=vault.decode()): parse_number(count)
            for vault, count in cast("dict[bytes, bytes]", found).items()
            if _VAULT.fullmatch(vault)
        }

    def release(self, vault_id: uuid.UUID) -> None:
        """Move a vault's entries back to the backlog, in order, and queue their drains.

        If the process is killed, each entry is either held or in the backlog. The call can be
        repeated.
        """
        keys = [
            self._names.backlog_counters, self._names.job_list,
            self._names.held_vaults, self._names.held_entries(vault_id.bytes),
        ]  # fmt: skip
        streams = self._names.stream(0).removesuffix("0")
        arguments = [vault_id.hex, _RELEASE_BATCH, streams, DRAIN_JOB_PREFIX]
        while self._release(keys=keys, args=arguments):
            continue

    def drop(self, vault_id: uuid.UUID) -> int:
        """Delete a vault's held entries for good. Return how many were deleted."""
        keys = [
            self._names.backlog_counters, self._names.held_vaults,
            self._names.held_entries(vault_id.bytes),
        ]  # fmt: skip
        return cast("int", self._drop(keys=keys, args=[vault_id.hex]))
