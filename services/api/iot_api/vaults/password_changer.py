"""Change the password of a vault. Its id, data key and readings stay as they are."""

import logging
from collections.abc import Callable
from functools import cache, partial

from redis.exceptions import RedisError

from iot_api.limits.clients import Client
from iot_cipher.encryption import OpenVault
from iot_cipher.keyring import Keyring
from iot_cipher.vault import PasswordSecret, VaultRecord, wrap_vault
from iot_models.audit_event import AuditKind, audit_event
from iot_models.errors import (
    ConflictError,
    InvalidRequestError,
    NotFoundError,
    UnavailableError,
)
from iot_models.password_form import normal_form
from iot_stores.password_changes import PasswordChange, PasswordChanges
from iot_stores.store_states import POSTGRES_UNAVAILABLE, report
from iot_stores.vault_lookups import LookupPolicy
from iot_stores.vault_records import LookupTakenError, PolicyChangedError, VaultRecords

from .change_follower import wait_before_change, wait_for_followers
from .opening import Vaults
from .password_search import all_lookups, same_lookups

_ATTEMPTS = 3

_log = logging.getLogger(__name__)


class PasswordChanger:
    """Changes passwords. After the answer, no process has a vault open under an old password.

    A change has four steps:

    1. The change is announced in Redis (`PasswordChanges`). All processes drop the vault. If the
       old password opens the vault again, they keep it for only half a second
       (`VaultCache.note_change`). Records under the old lookups are hidden in Redis.
    2. After `ANNOUNCED_SECONDS` every process has read the announcement.
    3. One statement replaces the record in Postgres, if it is still the record that was opened, and
       adds the change to the audit log.
    4. The new record is cached in Redis, and the change is announced again. After
       `ANNOUNCED_SECONDS` no process has the vault open under the old password.

    If the process is killed before step 3, the old password stays valid; after step 3, the new
    password is valid.
    """

    def __init__(
        self,
        vaults: Vaults,
        records: VaultRecords,
        changes: PasswordChanges,
        keyring: Callable[[], Keyring],
        require_safe: Callable[[], None],
    ) -> None:
        """`require_safe` raises unless Redis belongs to this installation."""
        self._vaults = vaults
        self._records = records
        self._changes = changes
        self._keyring = keyring
        self._require_safe = require_safe

    def change(self, old: bytes, new: bytes, client: Client) -> None:
        """Change the password of a vault.

        An unknown old password counts as a guess. If no vault has the new password, the request
        counts as a guess, too, even if the change fails later: any answer but `ConflictError` tells
        the client that no vault has the new password.

        Raises:
            InvalidRequestError: `old` and `new` are the same password.
            NotFoundError: there is no vault under the old password.
            ConflictError: another vault has the new password.
            TooManyRequestsError: like `Vaults.find`.
            UnavailableError: other requests kept changing the vault, or the change took too long.
            RedisError, psycopg.Error: a store is away. If Postgres failed during the change, the
                new password may be valid.
        """
        if normal_form(old) == normal_form(new):
            raise InvalidRequestError(
                "new_password: is the same password as db_password", field="new_password"
            )
        # Count the guess once, even if the change takes several attempts.
        count_guess = cache(partial(self._vaults.guesses.count, client))
        for _ in range(_ATTEMPTS):
            self._require_safe()
            found = self._vaults.find_record(old, client)
            if found is None:
                raise NotFoundError(
                    "db_password: no vault has this password; if an earlier attempt to change it "
                    "was not answered, try the new password",
                    field="db_password",
                )
            try:
                if self._try(found.record, found.vault, old, new, client, count_guess):
                    return
            except PolicyChangedError:
                self._vaults.policy.forget()
            # Another process replaced the vault's record.
            self._vaults.cache.forget_vault(found.record.vault_id)
        raise UnavailableError("the vault is being changed by other requests; try again")

    def _try(
        self,
        record: VaultRecord,
        vault: OpenVault,
        old: bytes,
        new: bytes,
        client: Client,
        count_guess: Callable[[], None],
    ) -> bool:
        """Change the password. Return False if the record in Postgres is no longer `record`."""
        policy = self._vaults.policy.current()
        old_lookups = all_lookups(
            self._vaults.searches(old, client, is_proven=True), policy, record
        )
        secret = self._free_secret(vault, new, policy, client)
        # Count before the change: a change that fails also tells the client that the new password
        # has no vault.
        count_guess()
        changed = wrap_vault(self._keyring(), vault, secret)
        if self._records.find([record.lookup]).record != record:
            return False
        change = PasswordChange(vault.vault_id, changed.lookup)
        self._vaults.cache.note_change(*change)
        self._changes.announce(change, old_lookups)
        wait_before_change("change")
        event = audit_event(AuditKind.PASSWORD_CHANGED, vault=str(vault.vault_id), **client.fields)
        try:
            if not self._records.change_password(record, changed, event):
                return False
        except LookupTakenError:
            raise _taken() from None
        self._vaults.put(normal_form(new), changed, vault)
        self._finish(change, changed, old_lookups)
        return True

    def _free_secret(
        self, vault: OpenVault, new: bytes, policy: LookupPolicy, client: Client
    ) -> PasswordSecret:
        """Return the lookup of the new password in the newest format, and its inner key.

        Raises:
            ConflictError: another vault has the new password.
            PolicyChangedError: the lookups in use have changed.
        """
        for search in self._vaults.searches(new, client, is_proven=False):
            found, _ = search.find(self._records, policy, ask_both=True)
            if found.record is not None and found.record.vault_id != vault.vault_id:
                raise _taken()
            if found.record is None and not same_lookups(found.policy, policy):
                raise PolicyChangedError
        return next(search.secrets(policy))

    def _finish(
        self, change: PasswordChange, record: VaultRecord, old_lookups: list[bytes]
    ) -> None:
        try:
            self._changes.finish(change, old_lookups)
            self._records.cache(record)
            # If this process hung before this announcement, the password may have changed again.
            for _, standing in self._records.find_changed([record]):
                if standing is not None and standing.lookup != record.lookup:
                    latest = PasswordChange(record.vault_id, standing.lookup)
                    self._changes.finish(latest, [record.lookup])
        except (RedisError, *POSTGRES_UNAVAILABLE) as error:
            report(_log, "a change of a password could not be announced again", error)
        _log.info("the password of vault %s was changed", record.vault_id)
        # A process may have opened the vault just before the change in Postgres.
        wait_for_followers()


def _taken() -> ConflictError:
    return ConflictError(
        "new_password: another vault has this password; choose another one", field="new_password"
    )
