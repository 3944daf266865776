"""Search for the vault of a password."""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence

from redis.exceptions import RedisError

from iot_api.limits.clients import Client
from iot_cipher.encryption import OpenVault
from iot_cipher.keyring import Keyring
from iot_cipher.vault import (
    PasswordKey,
    PasswordSecret,
    VaultFormat,
    VaultRecord,
    create_vault,
    fast_secret,
    open_vault,
    scrypt_secret,
)
from iot_models.audit_event import AuditKind, audit_event
from iot_models.errors import DecryptionError
from iot_stores.store_states import POSTGRES_UNAVAILABLE, report
from iot_stores.vault_lookups import FastLookups, LookupPolicy
from iot_stores.vault_records import FoundVault, VaultRecords

_log = logging.getLogger(__name__)


class OldRecordError(Exception):
    """Redis still has the record of a password that was changed, or of a vault that was erased."""


class PasswordSearch:
    """Finds or creates the vault of one password. Computes each of the password's lookups once."""

    def __init__(
        self,
        keyring: Callable[[], Keyring],
        password: bytes,
        scrypt_log2_n: int,
        slow_key: PasswordKey,
        client: Client,
        missed: tuple[bytes, ...] = (),
    ) -> None:
        self._keyring = keyring
        self.client = client
        self.missed = missed
        """If this search is for the normal form of a password, and the client sent another form:
        the lookups of the form that the client sent. Otherwise empty."""
        self._password = password
        self._scrypt_log2_n = scrypt_log2_n
        self._slow_key = slow_key
        self._made: dict[tuple[VaultFormat, int], PasswordSecret] = {}

    def secrets(self, policy: LookupPolicy) -> Iterator[PasswordSecret]:
        """Yield the password's lookups in use, each with its inner key.

        The first lookup is the newest, which new vaults get.
        """
        if not policy.creates_fast_lookups:
            for cost in reversed(policy.costs):
                yield self._secret(VaultFormat.SCRYPT_LOOKUP, cost)
        if policy.fast_lookups is not FastLookups.GONE:
            yield self._secret(VaultFormat.FAST_LOOKUP, self._scrypt_log2_n)

    @property
    def keyring(self) -> Keyring:
        """The current keyring."""
        # The primary master key may change while the search waits for its scrypt.
        return self._keyring()

    @property
    def lookups(self) -> tuple[bytes, ...]:
        """The lookups computed so far."""
        return tuple(secret.lookup for secret in self._made.values())

    def has(self, lookup: bytes, policy: LookupPolicy) -> bool:
        """Return whether the password has this lookup."""
        return any(secret.lookup == lookup for secret in self.secrets(policy))

    def create(
        self, records: VaultRecords, policy: LookupPolicy
    ) -> tuple[VaultRecord, VaultRecord, OpenVault]:
        """Create a vault for the password. If new vaults are audited, also add an audit record.

        Return the record of the created vault, the record that is stored for the password, and the
        created vault, open. If another process created a vault for the password first, the stored
        record is the record of that vault, and the vault created here is not stored. Raises the
        errors of `VaultRecords.add`.
        """
        fresh, vault = create_vault(self.keyring, next(self.secrets(policy)))
        event = audit_event(
            AuditKind.VAULT_CREATED, vault=str(fresh.vault_id), **self.client.fields
        )
        return fresh, records.add(fresh, event), vault

    def find(
        self, records: VaultRecords, policy: LookupPolicy, *, ask_both: bool = False
    ) -> tuple[FoundVault, bool]:
        """Look for the password's record in Redis, then in Postgres.

        Return what was found, and whether it comes from Redis. If several lookups are in use, the
        newest is tried alone first, because each lookup costs a scrypt.

        While Redis can't serve, only Postgres is asked. If Postgres then has no record, Redis may
        still have a record that Postgres lost. Nevertheless, the result says that no record was
        found. With `ask_both`, raise the error of Redis instead.

        Raises:
            RedisError: `ask_both` is true, Redis can't serve, and Postgres has no record.
            POSTGRES_UNAVAILABLE: Postgres can't serve, and Redis has no record.
        """
        secrets = self.secrets(policy)
        newest = next(secrets)
        if len(policy.costs) + (policy.fast_lookups is not FastLookups.GONE) > 1:
            try:
                found, from_cache = _find(records, [newest.lookup], policy)
                if found.record is not None or not same_lookups(found.policy, policy):
                    return found, from_cache
            except POSTGRES_UNAVAILABLE:
                _log.info("Postgres is away: a password is looked up in Redis alone")
        lookups = [newest.lookup, *(secret.lookup for secret in secrets)]
        return _find(records, lookups, policy, ask_both=ask_both)

    def open(self, record: VaultRecord) -> OpenVault:
        """Open the vault of a found record. Raises `DecryptionError` if the record is damaged."""
        for secret in self._made.values():
            if secret.lookup == record.lookup:
                return open_vault(self.keyring, record, secret)
        raise DecryptionError("the vault record has none of the password's lookups")

    def _secret(self, vault_format: VaultFormat, cost: int) -> PasswordSecret:
        made = self._made.get((vault_format, cost))
        if made is None:
            fast = vault_format is VaultFormat.FAST_LOOKUP
            make = fast_secret if fast else scrypt_secret
            made = make(self.keyring, self._password, cost, slow_key=self._slow_key)
            self._made[vault_format, cost] = made
        return made


def _find(
    records: VaultRecords,
    lookups: Sequence[bytes],
    policy: LookupPolicy,
    *,
    ask_both: bool = False,
) -> tuple[FoundVault, bool]:
    try:
        record = records.find_cached(lookups)
    except RedisError as error:
        report(_log, "vaults are looked up in Postgres", error)
        found = records.find(lookups)
        if found.record is None and ask_both:
            raise
        return found, False
    if record is not None:
        return FoundVault(record, policy), True
    return records.find(lookups), False


def all_lookups(
    searches: Iterable[PasswordSearch], policy: LookupPolicy, record: VaultRecord
) -> list[bytes]:
    """Return every lookup of a password, beginning with the lookup of `record`.

    Redis may have a record under each.
    """
    lookups = {secret.lookup for search in searches for secret in search.secrets(policy)}
    return [record.lookup, *(lookups - {record.lookup})]


def same_lookups(one: LookupPolicy, other: LookupPolicy) -> bool:
    """Return whether a password has the same lookups under both policies."""
    return (one.fast_lookups, one.costs) == (other.fast_lookups, other.costs)
