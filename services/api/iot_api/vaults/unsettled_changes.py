"""Password changes and erasures of vaults that API processes have announced in the last minute."""

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass

from iot_cipher.vault import VaultRecord
from iot_stores.password_changes import SETTLING_SECONDS


@dataclass(frozen=True, slots=True)
class UnsettledChange:
    """A change of a vault's password, or its erasure, that an API process has announced."""

    lookup: bytes
    """The lookup of the new password. For an erasure, it is `ERASING` or `ERASED`."""
    noted_at: float


class UnsettledChanges:
    """The last change of each vault, until it has settled (`SETTLING_SECONDS`)."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._changes: dict[uuid.UUID, UnsettledChange] = {}

    def note(self, vault_id: uuid.UUID, lookup: bytes) -> None:
        """Note that a change or an erasure was announced. `lookup` is as in `UnsettledChange`."""
        changes = self._changes.items()
        self._changes = {each: change for each, change in changes if not self._is_settled(change)}
        self._changes[vault_id] = UnsettledChange(lookup, self._clock())

    def of(self, vault_id: uuid.UUID) -> UnsettledChange | None:
        """Return a vault's last unsettled change; None if all its changes are settled."""
        change = self._changes.get(vault_id)
        return None if change is None or self._is_settled(change) else change

    def outdating(self, record: VaultRecord) -> UnsettledChange | None:
        """Return the unsettled change that makes a record out of date; None if no change does.

        A record is up to date if it has the lookup that the change gave the vault.
        """
        change = self.of(record.vault_id)
        return None if change is None or change.lookup == record.lookup else change

    def _is_settled(self, change: UnsettledChange) -> bool:
        return self._clock() >= change.noted_at + SETTLING_SECONDS
