"""Open the vault of a password: find its record, compare it with Postgres, or create a vault."""

import logging
from collections.abc import Callable

import psycopg
from redis.exceptions import RedisError

from iot_api.limits.guess_limit import GuessLimit
from iot_cipher.encryption import OpenVault
from iot_cipher.vault import VaultRecord, wrap_vault
from iot_models import metrics
from iot_models.errors import DecryptionError, TooManyRequestsError, UnavailableError
from iot_stores.store_states import report
from iot_stores.vault_lookups import LookupPolicy
from iot_stores.vault_records import PolicyChangedError, VaultErasedError

from .cache import CachedVault
from .known_policy import KnownPolicy
from .password_search import OldRecordError, PasswordSearch, same_lookups
from .restorer import VaultRestorer
from .scrypt_queue import ScryptQueue

_MAX_ATTEMPTS = 3
_log = logging.getLogger(__name__)


class VaultOpener:
    """Opens vaults from their records in the stores, and keeps them open in the cache."""

    def __init__(
        self,
        restorer: VaultRestorer,
        policy: KnownPolicy,
        guesses: GuessLimit,
        queue: ScryptQueue,
        on_opened: Callable[[OpenVault], None],
    ) -> None:
        """`on_opened` is called with each existing vault that is opened."""
        self._restorer = restorer
        self._records = restorer.records
        self._cache = restorer.cache
        self._policy = policy
        self._guesses = guesses
        self._queue = queue
        self._on_opened = on_opened

    def open(self, search: PasswordSearch, key: bytes, *, create: bool) -> CachedVault | None:
        """Open the vault of a search, and keep it open under a cache key.

        If no vault has the password, create one if `create` is true; otherwise return None. A
        created vault counts as a guess.

        Raises:
            TooManyRequestsError: the client has created too many vaults; or the search waited for a
                scrypt, and was refused.
            DecryptionError: the record is damaged, or its master key is not in the keyring.
            UnavailableError: the `LookupPolicy` in Postgres is invalid, or keeps changing.
            RedisError, psycopg.Error: a store is away.
        """
        for _ in range(_MAX_ATTEMPTS):
            policy = self._policy.current()
            found, from_cache = search.find(self._records, policy, ask_both=create)
            if found.record is not None:
                try:
                    return self._open_record(search, key, found.record, from_cache=from_cache)
                except OldRecordError:
                    self._records.hide(found.record)
                    continue
            if not same_lookups(found.policy, policy):
                self._policy.known = found.policy
                continue
            if not create:
                return None
            self._guesses.check_new_vault(search.client)
            try:
                return self._create(search, key, policy)
            except PolicyChangedError:
                self._policy.forget()
        raise UnavailableError("the database is being changed; try again")

    def _open_record(
        self, search: PasswordSearch, key: bytes, record: VaultRecord, *, from_cache: bool
    ) -> CachedVault:
        metrics.counter("iot_vaults_opened_total").labels("found").inc()
        try:
            vault = search.open(record)
            if from_cache:
                record, vault = self._confirmed(search, record, vault)
        except DecryptionError:
            standing = self._records.find([record.lookup]).record if from_cache else None
            if standing is None or standing == record:
                metrics.counter("iot_damaged_total").labels("vault").inc()
                _log.error("vault %s can't be opened", record.vault_id)
                raise
            metrics.counter("iot_damaged_total").labels("vault_cache").inc()
            _log.warning(
                "the record of vault %s in Redis is damaged; the record in Postgres is used",
                standing.vault_id,
            )
            record, vault = standing, search.open(standing)
        record = self.move(search, record, vault)
        cached = self.keep(key, record, vault, search.missed)
        self._on_opened(vault)
        return cached

    def _confirmed(
        self, search: PasswordSearch, record: VaultRecord, vault: OpenVault
    ) -> tuple[VaultRecord, OpenVault]:
        """Compare a record from Redis with Postgres; return the record to use, and its open vault.

        A record that Postgres lost is restored.

        Raises:
            OldRecordError: Postgres has the vault under another password, or the vault was erased.
        """
        try:
            standing = self.put_back(search, record, vault)
        except VaultErasedError:
            raise OldRecordError from None
        except (PolicyChangedError, UnavailableError, TooManyRequestsError) as error:
            _log.warning("a vault record that Postgres lacks is not restored yet: %s", error)
            self._restorer.watch(record)
            return record, vault
        if standing.vault_id != record.vault_id:
            vault = search.open(standing)
        elif standing.lookup != record.lookup:
            self._policy.forget()  # a restore of Postgres may have brought an older lookup back
            if not search.has(standing.lookup, self._policy.current()):
                raise OldRecordError
        return standing, vault

    def put_back(
        self, search: PasswordSearch, record: VaultRecord, vault: OpenVault
    ) -> VaultRecord:
        """Return the record that Postgres has for an open vault; first restore a missing record."""
        try:
            return self._restorer.confirm(record)
        except PolicyChangedError:
            self._policy.forget()
            newest = next(search.secrets(self._policy.current()))
            return self._restorer.confirm(wrap_vault(search.keyring, vault, newest))

    def _create(self, search: PasswordSearch, key: bytes, policy: LookupPolicy) -> CachedVault:
        fresh, record, vault = search.create(self._records, policy)
        metrics.counter("iot_vaults_opened_total").labels("created").inc()
        if record.vault_id != fresh.vault_id:
            return self._open_record(search, key, record, from_cache=False)
        cached = self.keep(key, record, vault, search.missed)
        self._guesses.count(search.client, created=True)
        return cached

    def move(self, search: PasswordSearch, record: VaultRecord, vault: OpenVault) -> VaultRecord:
        """Give a vault the newest lookup if the policy requires it (`LookupPolicy.must_move`).

        Return the vault's new record, or `record` if nothing changed.
        """
        policy = self._policy.known
        if policy is None or not policy.must_move(record.format, record.scrypt_log2_n):
            return record
        new = wrap_vault(search.keyring, vault, next(search.secrets(policy)))
        try:
            if self._records.replace(record, new):
                metrics.counter("iot_vaults_moved_total").inc()
                return new
        except PolicyChangedError:
            self._policy.forget()  # a later use tries again
        except (RedisError, psycopg.Error) as error:
            report(_log, "a vault keeps its old lookup until a later use", error)
        return record

    def keep(
        self, key: bytes, record: VaultRecord, vault: OpenVault, missed: tuple[bytes, ...] = ()
    ) -> CachedVault:
        """Keep a vault open under a cache key. `missed` is as in `VaultCache.put`."""
        cached = self._cache.put(key, record, vault, missed)
        self._queue.remember(key)
        self._restorer.start()
        return cached
