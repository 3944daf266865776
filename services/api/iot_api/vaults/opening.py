"""Vaults as an API process sees them: found by password, opened, held open while in use."""

import logging
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

import psycopg
from redis.exceptions import RedisError

from iot_api.limits.clients import Client
from iot_api.limits.guess_limit import GuessLimit
from iot_cipher.keyring import Keyring
from iot_cipher.vault import (
    OpenVault,
    PasswordKey,
    VaultRecord,
    create_vault,
    password_key,
    wrap_vault,
)
from iot_models import metrics
from iot_models.errors import (
    DecryptionError,
    IotError,
    TooManyRequestsError,
    UnavailableError,
)
from iot_stores.postgres import AWAY
from iot_stores.store_states import report
from iot_stores.vault_lookups import FastLookups, LookupPolicy
from iot_stores.vault_records import PolicyChangedError

from .cache import CachedVault
from .keeper import VaultKeeper
from .password_form import normal_form
from .password_search import PasswordSearch, same_lookups
from .scrypt_queue import WAIT_SECONDS, ScryptQueue

_MOST_CHANGES = 3

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Opened:
    held: CachedVault
    created: bool = False


class Vaults:
    """Opens vaults.

    One scrypt runs at a time in a process, which bounds its memory (`ScryptQueue`). Requests that
    bring the same password at once share one opening, whatever comes of it. Nobody waits for
    another password's record: a store that doesn't answer would hold up all of them, one after the
    other.
    """

    def __init__(
        self,
        keyring: Callable[[], Keyring],
        keeper: VaultKeeper,
        guesses: GuessLimit,
        *,
        scrypt_log2_n: int,
        slow_key: PasswordKey = password_key,
        opened: Callable[[OpenVault], None] = lambda _: None,
    ) -> None:
        """`opened` is called with each vault that was there and is opened or renewed; it must cost
        nothing.
        """
        self._opened = opened
        self._keyring = keyring
        self._keeper = keeper
        self._records = keeper.records
        self._cache = keeper.cache
        self._guesses = guesses
        self._scrypt_log2_n = scrypt_log2_n
        self._slow_key = slow_key
        self._policy: LookupPolicy | None = None
        self._queue = ScryptQueue(guesses)
        self._under_way: dict[tuple[bytes, bool, bool], Future[_Opened | None]] = {}

    def find(self, password: bytes, client: Client) -> OpenVault | None:
        """The password's vault, or None when there is none, which counts as a guess.

        Raises:
            TooManyRequestsError: the client is over the guess limit, whether or not the password is
                right; or too many passwords wait to be opened.
            DecryptionError: its record is damaged, or its master key is not in the keyring.
            RedisError, psycopg.Error: it can't be told now.
        """
        found = self._held_or_opened(password, client, create=False)
        if found is None:
            self._guesses.count(client)
            return None
        return found.vault

    def held(self, password: bytes, client: Client) -> OpenVault | None:
        """The password's vault, to be written to, if this process has it open. The guess limit is
        not looked at.

        Raises:
            RedisError: only this process and Postgres have its record.
        """
        held = self._held(self._cache.key(password), password, client)
        return None if held is None else self._writable(held)

    def find_or_create(self, password: bytes, client: Client) -> OpenVault:
        """The password's vault, to be written to; made if there is none, which counts as a guess.

        Raises what `find` and `held` raise.
        """
        found = self._held_or_opened(password, client, create=True)
        if found is None:
            raise DecryptionError("a vault could neither be found nor made")
        return self._writable(found)

    @property
    def old_processes_may_run(self) -> bool:
        """Whether processes of version 0.1 may run beside this one, as far as is known."""
        return self._policy is None or not (
            self._policy.settled or self._policy.fast_lookups is FastLookups.GONE
        )

    @property
    def waiting(self) -> int:
        """Requests that wait for a scrypt."""
        return self._queue.waiting

    def close(self) -> None:
        """Drop all vaults."""
        self._cache.close()

    def note_held(self, entries: int) -> None:
        """Note how many entries wait for vaults that Postgres does not have. Costs nothing."""
        if entries:
            self._keeper.entries_are_held()

    def _writable(self, held: CachedVault) -> OpenVault:
        """A vault whose record Redis has too, so that its readings may be acknowledged.

        When Postgres loses the row, Redis has the only copy that outlives this process. The record
        is written before the readings, so a replica, or an AOF, that has them has the record.
        """
        if not held.in_redis:
            self._records.cache(held.record)
            held.in_redis = True
        return held.vault

    def _held_or_opened(
        self, password: bytes, client: Client, *, create: bool
    ) -> CachedVault | None:
        self._guesses.check(client)
        key = self._cache.key(password)
        held = self._held(key, password, client)
        if held is not None:
            return held
        found = self._share(key, password, client, create=create)
        return None if found is None else found.held

    def _held(self, key: bytes, password: bytes, client: Client) -> CachedVault | None:
        held = self._cache.get(key)
        if held is not None and self._cache.is_due(held):
            return self._renew(key, held, password, client)
        return held

    def _renew(
        self, key: bytes, held: CachedVault, password: bytes, client: Client
    ) -> CachedVault | None:
        """Hold a vault on if its record is still the same; None if it is another one.

        While its record can't be read, the vault is used until its time is over. One that Postgres
        lacks is put back: it was opened with the password, so its record is known to be good.
        """
        held.in_redis = False  # the next PUT stores the record anew, before it expires
        # A process of an earlier version may have made a vault for the password as it was sent.
        lookups, record = [*held.missed, held.record.lookup], None
        try:
            if not held.missing:
                record = self._records.cached(lookups) or self._records.find(lookups).record
                self._keeper.watch(held.record)
            if record is None:
                search = self._search(password, key, client, held.missed, seconds=0)
                record = self._put_back(search, held.record, held.vault)
        except (RedisError, *AWAY) as error:
            report(_log, "open vaults are not renewed", error)
            self._keeper.watch(held.record)
            return held
        except (IotError, PolicyChangedError) as error:
            _log.warning("an open vault is not renewed: %s", error)
            self._keeper.watch(held.record)
            return held
        if record != held.record:
            self._cache.forget(key)
            return None
        record = self._moved_when_idle(held, key, password, client)
        renewed = self._cache.put(key, record, held.vault, held.missed)
        self._opened(held.vault)
        return renewed

    def _moved_when_idle(
        self, held: CachedVault, key: bytes, password: bytes, client: Client
    ) -> VaultRecord:
        """As `_moved`, if nobody computes a scrypt now: ten thousand vaults in use would otherwise
        have to be moved within minutes.
        """
        record = held.record
        policy = self._current_policy()
        if not policy.moves(record.format, record.scrypt_log2_n):
            return record
        try:
            search = self._search(password, key, client, held.missed, seconds=0)
            return self._moved(search, record, held.vault)
        except TooManyRequestsError:
            return record

    def _search(
        self,
        password: bytes,
        key: bytes,
        client: Client,
        missed: tuple[bytes, ...] = (),
        *,
        seconds: float = WAIT_SECONDS,
    ) -> PasswordSearch:
        """A search whose scrypts wait for their turn: for the password, or, with the lookups that
        missed, for its normal form.
        """

        def slow_key(password: bytes, salt: bytes, log2_n: int) -> bytes:
            with self._queue.turn(key, client, seconds=seconds):
                return self._slow_key(password, salt, log2_n)

        if missed:
            password = normal_form(password)
        return PasswordSearch(self._keyring(), password, self._scrypt_log2_n, slow_key, missed)

    def _share(
        self, key: bytes, password: bytes, client: Client, *, create: bool
    ) -> _Opened | None:
        ours: Future[_Opened | None] = Future()
        # Suspects share with suspects alone: they wait longer, and are refused more often.
        of = (key, create, self._queue.is_urgent(key, client))
        opening = self._under_way.setdefault(of, ours)
        try:
            if opening is ours:
                try:
                    self._do(ours, key, password, client, create=create)
                finally:
                    del self._under_way[of]
            return opening.result()
        finally:
            del ours, opening  # what an error's traceback holds must not hold the error

    def _do(
        self,
        opening: "Future[_Opened | None]",
        key: bytes,
        password: bytes,
        client: Client,
        *,
        create: bool,
    ) -> None:
        try:
            found = self._look_up_forms(key, password, client, create=create)
            if found is not None and found.created:
                self._guesses.count(client)
            opening.set_result(found)
        except BaseException as error:  # noqa: BLE001 - raised to all who wait for it, us too
            opening.set_exception(error)
        finally:
            del opening

    def _look_up_forms(
        self, key: bytes, password: bytes, client: Client, *, create: bool
    ) -> _Opened | None:
        """Look a password up as it was sent, then in its normal form, in which vaults are created.

        As it was sent first: a vault of an earlier version stays what its password finds, also
        where the normal form has a vault of its own.
        """
        search = self._search(password, key, client)
        if normal_form(password) != password:
            found = self._look_up(search, key, create=False)
            if found is not None:
                return found
            search = self._search(password, key, client, search.lookups)
        return self._look_up(search, key, create=create)

    def _look_up(self, search: PasswordSearch, key: bytes, *, create: bool) -> _Opened | None:
        for _ in range(_MOST_CHANGES):
            policy = self._current_policy()
            found, from_cache = search.find(self._records, policy)
            if found.record is not None:
                return _Opened(self._open(search, key, found.record, from_cache=from_cache))
            if not same_lookups(found.policy, policy):
                self._policy = found.policy
                continue
            if not create:
                return None
            try:
                return self._create(search, key, policy)
            except PolicyChangedError:
                self._policy = None
        raise UnavailableError("the way in which passwords are looked up changes; try again")

    def _open(
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
                raise
            metrics.counter("iot_damaged_total").labels("vault_cache").inc()
            _log.warning("a vault's record in Redis was damaged; Postgres has the right one")
            record, vault = standing, search.open(standing)
        record = self._moved(search, record, vault)
        held = self._cache.put(key, record, vault, search.missed)
        self._queue.remember(key)
        self._keeper.start()
        self._opened(vault)
        return held

    def _confirmed(
        self, search: PasswordSearch, record: VaultRecord, vault: OpenVault
    ) -> tuple[VaultRecord, OpenVault]:
        """A vault that was opened from Redis as it stands in Postgres, which may have lost it."""
        try:
            standing = self._put_back(search, record, vault)
        except (PolicyChangedError, UnavailableError, TooManyRequestsError) as error:
            _log.warning("a vault that Postgres lacks is not put back now: %s", error)
            self._keeper.watch(record)
            return record, vault
        if standing.vault_id != record.vault_id:
            vault = search.open(standing)
        return standing, vault

    def _put_back(
        self, search: PasswordSearch, record: VaultRecord, vault: OpenVault
    ) -> VaultRecord:
        """The record of an open vault that stands in Postgres, put back if it is missing there."""
        try:
            return self._keeper.confirm(record)
        except PolicyChangedError:
            self._policy = None
            newest = next(search.secrets(self._current_policy()))
            return self._keeper.confirm(wrap_vault(search.keyring, vault, newest))

    def _create(self, search: PasswordSearch, key: bytes, policy: LookupPolicy) -> _Opened:
        secret = next(search.secrets(policy))
        fresh, vault = create_vault(search.keyring, secret)
        record = self._records.add(fresh)
        metrics.counter("iot_vaults_opened_total").labels("created").inc()
        if record.vault_id != fresh.vault_id:
            return _Opened(self._open(search, key, record, from_cache=False))
        held = self._cache.put(key, record, vault, search.missed)
        self._queue.remember(key)
        self._keeper.start()
        return _Opened(held, created=True)

    def _moved(self, search: PasswordSearch, record: VaultRecord, vault: OpenVault) -> VaultRecord:
        """The record of a vault under the newest lookup, if it may be moved there now."""
        policy = self._policy
        if policy is None or not policy.moves(record.format, record.scrypt_log2_n):
            return record
        new = wrap_vault(search.keyring, vault, next(search.secrets(policy)))
        try:
            if self._records.replace(record, new):
                metrics.counter("iot_vaults_moved_total").inc()
                return new
        except PolicyChangedError:
            self._policy = None  # the vault moves at a later use
        except (RedisError, psycopg.Error) as error:
            report(_log, "vaults keep their old lookups for now", error)
        return record

    def _current_policy(self) -> LookupPolicy:
        """The lookups in use, as far as is known. While Postgres is away, and nothing is known, all
        that may be.

        Raises:
            UnavailableError: they are wrong, or cost less than was asked for.
        """
        policy = self._policy
        if policy is None or policy.is_passing or policy.cost_below(self._scrypt_log2_n):
            try:
                policy = self._policy = self._records.raise_cost(self._scrypt_log2_n)
            except AWAY as error:
                report(_log, "the lookups in use are not read", error)
                if policy is None or not (policy.costs or policy.creates_fast_lookups):
                    return LookupPolicy(FastLookups.KEPT, (self._scrypt_log2_n,))
        return policy
