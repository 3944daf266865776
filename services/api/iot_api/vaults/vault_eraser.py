"""Erase a vault. Once the request is answered, nothing opens the vault or stores readings in it."""

import logging
from collections.abc import Callable

from redis.exceptions import RedisError

from iot_api.limits.clients import Client
from iot_cipher.vault import VaultRecord
from iot_models.audit_event import AuditKind, audit_event
from iot_models.errors import NotFoundError, UnavailableError
from iot_stores.erasures import Erasures
from iot_stores.password_changes import ERASED
from iot_stores.store_states import report
from iot_stores.vault_records import VaultRecords

from .change_follower import wait_before_change, wait_for_followers
from .opening import Vaults
from .password_search import all_lookups

_ATTEMPTS = 3

_log = logging.getLogger(__name__)


class VaultEraser:
    """Erases vaults in four steps, so that no process opens a vault that is erased.

    1. The erasure is announced in Redis. All processes drop the vault. If its password opens the
       vault again, they keep it for only half a second. The vault's records are removed from Redis,
       and a Redis key hides records that a process caches again.
    2. After `ANNOUNCED_SECONDS` every process has read the announcement.
    3. One transaction deletes the record in Postgres, writes a tombstone, and adds the erasure to
       the audit log.
    4. The erasure is announced again, and a writer begins to delete segments. After
       `ANNOUNCED_SECONDS` no process has the vault open, so no more readings are acknowledged for
       it.

    A process that is killed before step 3 leaves the vault as it was. After step 3, other processes
    finish the erasure (`VaultRestorer`, the writers' sweep).
    """

    def __init__(
        self,
        vaults: Vaults,
        records: VaultRecords,
        erasures: Erasures,
        require_safe: Callable[[], None],
        sweep: Callable[[], object],
    ) -> None:
        """`require_safe` raises unless Redis belongs to this installation. `sweep` queues the job
        that deletes the segments.
        """
        self._vaults = vaults
        self._records = records
        self.erasures = erasures
        self._require_safe = require_safe
        self._sweep = sweep

    def erase(self, password: bytes, client: Client) -> None:
        """Erase the vault of a password. An unknown password counts as a guess.

        Raises:
            NotFoundError: there is no vault under the password.
            TooManyRequestsError: the client is over the guess limit, or too many requests wait for
                a scrypt.
            UnavailableError: other requests kept changing the vault, the erasure took too long, or
                processes of version 0.1 may still be running.
            RedisError, psycopg.Error: a store is unavailable. If Postgres failed during the
                erasure, the vault may be erased already.
        """
        for _ in range(_ATTEMPTS):
            self._require_safe()
            found = self._vaults.find_record(password, client)
            if found is None:
                raise NotFoundError(
                    "db_password: no vault has this password; an earlier request without an answer "
                    "may have erased the vault",
                    field="db_password",
                )
            if self._try(found.record, password, client):
                return
            # Another process replaced the vault's record, or erased the vault.
            self._vaults.cache.forget_vault(found.record.vault_id)
        raise UnavailableError("the vault is being changed by other requests; try again")

    def _try(self, record: VaultRecord, password: bytes, client: Client) -> bool:
        """Erase the vault. Return False if the record in Postgres is no longer `record`."""
        policy = self._vaults.policy.current()
        searches = self._vaults.searches(password, client, is_proven=True)
        lookups = all_lookups(searches, policy, record)
        if self._records.find([record.lookup]).record != record:
            return False
        # Check this after `find`, which raises while Postgres is away: then nothing is known about
        # old processes.
        if self._vaults.policy.old_processes_may_run:
            raise UnavailableError(
                "the vault was not erased, because processes of version 0.1 may still run and "
                "could store readings for it; try again when IOT_UPGRADE_AFTER_SECONDS and two "
                "more minutes have passed since the last database migration",
                retry_after=60,
            )
        self.erasures.announce(record.vault_id, lookups)
        wait_before_change("erasure")
        event = audit_event(AuditKind.VAULT_ERASED, vault=str(record.vault_id), **client.fields)
        if not self.erasures.erase(record.vault_id, lookups, event):
            return False
        self._vaults.cache.note_change(record.vault_id, ERASED)
        self._finish(record, lookups)
        return True

    def _finish(self, record: VaultRecord, lookups: list[bytes]) -> None:
        _log.info("vault %s was erased", record.vault_id)
        try:
            self.erasures.announce(record.vault_id, lookups, done=True)
            self.erasures.remove_records(record.vault_id, lookups)
            self._sweep()
        except RedisError as error:
            report(_log, "other processes must finish an erasure", error)
        # A process may have opened the vault just before the transaction.
        wait_for_followers()
