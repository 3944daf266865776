"""The log of vaults that Postgres lacks."""

import logging
import uuid
from collections.abc import Sequence

from iot_models import metrics
from iot_stores.stream_entries import HeldEntry

_MAX_LOGGED = 10_000
"""Maximum size of the set of vaults that were logged as missing."""

_log = logging.getLogger(__name__)


class MissingVaultLog:
    """Counts held entries, and logs each of their vaults once."""

    def __init__(self) -> None:
        self._logged: set[uuid.UUID] = set()

    def report(self, held_entries: Sequence[HeldEntry]) -> None:
        """Count held entries. Log each of their vaults that was not logged before."""
        metrics.counter("iot_entries_held_total").inc(len(held_entries))
        vaults = {uuid.UUID(bytes=held.vault_id) for held in held_entries}
        for vault_id in vaults - self._logged:
            _log.error(
                "Postgres has no vault %s: its readings are held in Redis until the vault's row is "
                "back; see `iot-sensor held list` and docs/reliability.md, After a restore",
                vault_id,
            )
        if len(self._logged) > _MAX_LOGGED:
            self._logged.clear()
        self._logged |= vaults
