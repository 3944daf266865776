"""Held entries: acknowledged, and not stored, since Postgres does not have their vaults.

A reading that is stored for a vault without a row can never be opened. Postgres lacks the row of a
vault after a restore, or after a failover to a replica that did not have it yet.
"""

import re
import uuid
from typing import cast

from redis import Redis

from iot_models.names import DRAIN_JOB_PREFIX, KeyNames

from .backlog_counters import parse_number
from .scripts import load_script

_RELEASED_AT_A_TIME = 500
_VAULT = re.compile(rb"[0-9a-f]{32}")


class HeldEntries:
    """The streams of held entries, one a vault. `Backlog.remove` adds to them."""

    def __init__(self, client: "Redis", names: KeyNames) -> None:
        self._client = client
        self._names = names
        self._release = load_script(client, "held_entries_release.lua")
        self._drop = load_script(client, "held_entries_drop.lua")

    def vaults(self) -> dict[uuid.UUID, int]:
        """The vaults whose entries are held, with the number of entries."""
        found = self._client.hgetall(self._names.held_vaults)
        return {
            uuid.UUID(hex=vault.decode()): parse_number(count)
            for vault, count in cast("dict[bytes, bytes]", found).items()
            if _VAULT.fullmatch(vault)
        }

    def release(self, vault_id: uuid.UUID) -> None:
        """Put a vault's entries back into the backlog, in their order, and queue their drains.

        May be interrupted and repeated: each entry is held, or waits in the backlog.
        """
        keys = [
            self._names.backlog_counters, self._names.job_list,
            self._names.held_vaults, self._names.held_entries(vault_id.bytes),
        ]  # fmt: skip
        streams = self._names.stream(0).removesuffix("0")
        arguments = [vault_id.hex, _RELEASED_AT_A_TIME, streams, DRAIN_JOB_PREFIX]
        while self._release(keys=keys, args=arguments):
            continue

    def drop(self, vault_id: uuid.UUID) -> int:
        """Delete a vault's held entries for good; how many there were."""
        keys = [
            self._names.backlog_counters, self._names.held_vaults,
            self._names.held_entries(vault_id.bytes),
        ]  # fmt: skip
        return cast("int", self._drop(keys=keys, args=[vault_id.hex]))
