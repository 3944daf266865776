"""Find the vault of a password, open it, and keep it open while it is used."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from redis.exceptions import RedisError

from iot_api.limits.clients import Client
from iot_api.limits.fair_slots import NO_RESERVATION, Reservation
from iot_api.limits.guess_limit import GuessLimit
from iot_cipher.encryption import OpenVault
from iot_cipher.keyring import Keyring
from iot_cipher.vault import PasswordKey, VaultRecord, password_key
from iot_models import metrics, tracing
from iot_models.errors import DecryptionError, IotError, TooManyRequestsError, UnavailableError
from iot_models.password_form import normal_form
from iot_stores.store_states import POSTGRES_UNAVAILABLE, report
from iot_stores.vault_records import PolicyChangedError, VaultErasedError

from .cache import CachedVault
from .known_policy import KnownPolicy
from .password_search import PasswordSearch
from .restorer import VaultRestorer
from .scrypt_queue import WAIT_SECONDS, ScryptQueue
from .shared_openings import SharedOpenings
from .tried_passwords import TriedPasswords
from .vault_opener import VaultOpener

_MAX_ATTEMPTS = 3
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class VaultRequest:
    """A client's request for the vault of a password."""

    password: bytes = field(repr=False)
    key: bytes
    """The password's cache key (`VaultCache.key`)."""
    client: Client
    reservation: Reservation = NO_RESERVATION
    """A place in the scrypt queue, reserved before it is known whether the request needs a scrypt.
    If it does, the request joins the queue, and the reservation is cancelled just before: otherwise
    the request would count twice."""


class Vaults:
    """Finds, creates, opens and renews vaults.

    To bound its memory, a process runs one scrypt at a time (`ScryptQueue`). Concurrent requests
    with the same password share one opening, and its error (`SharedOpenings`). A request that waits
    for a store delays no request with another password.
    """

    def __init__(
        self,
        keyring: Callable[[], Keyring],
        restorer: VaultRestorer,
        guesses: GuessLimit,
        *,
        scrypt_log2_n: int,
        slow_key: PasswordKey = password_key,
        on_opened: Callable[[OpenVault], None] = lambda _: None,
        catch_up: Callable[..., None] = lambda **_: None,
    ) -> None:
        """`on_opened` is called with each existing vault that is opened or renewed, and must return
        immediately. `catch_up` is `ChangeFollower.catch_up`."""
        self._on_opened = on_opened
        self.catch_up = catch_up
        self._keyring = keyring
        self._restorer = restorer
        self._records = restorer.records
        self.cache = restorer.cache
        self.guesses = guesses
        self._scrypt_log2_n = scrypt_log2_n
        self._slow_key = slow_key
        self.policy = KnownPolicy(restorer.records, scrypt_log2_n)
        self.tried = TriedPasswords(guesses)
        self.queue = ScryptQueue(guesses, self.tried)
        self._opener = VaultOpener(restorer, self.policy, guesses, self.queue, on_opened)
        self._openings = SharedOpenings()

    def find(self, password: bytes, client: Client) -> OpenVault | None:
        """Return the vault of a password. If no vault has it, return None and count a guess.

        Raises:
            TooManyRequestsError: the client is over the guess limit, even if this password has a
                vault; or too many requests wait for a scrypt.
            DecryptionError: the record is damaged, or its master key is not in the keyring.
            UnavailableError: the `LookupPolicy` in Postgres is invalid, or keeps changing.
            RedisError, psycopg.Error: a store is away and the vault is not open.
        """
        found = self.find_record(password, client)
        return None if found is None else found.vault

    def find_record(self, password: bytes, client: Client) -> CachedVault | None:
        """Like `find`, but return the vault together with its record."""
        self.catch_up(required=False)
        found = self._cached_or_opened(password, client, create=False)
        if found is None:
            self.guesses.count(client)
        return found

    def open_vault(self, password: bytes, client: Client) -> OpenVault | None:
        """Return the vault of a password for writing.

        Return None if the vault is not open in this process: this method opens no vault.

        Raises:
            RedisError: Redis is away.
        """
        self.catch_up()
        cached = self._cached(VaultRequest(password, self.cache.key(password), client))
        return None if cached is None else self._writable(cached)

    def admit(self, client: Client, key: bytes) -> Reservation:
        """Check whether a client may ask for a vault, and make a reservation in the queue for
        scrypts.

        `key` is the password's cache key. Call this before you look whether the vault is open.
        Otherwise a refusal would tell the client that the vault is not open.

        Raises:
            TooManyRequestsError: the client is over the guess limit, or the queue has no room.
        """
        self.guesses.check(client)
        return self.queue.reserve(client, key)

    def find_or_create(self, password: bytes, client: Client) -> OpenVault:
        """Return the vault of a password for writing.

        If no vault has the password, create one and count a guess.

        Raises the errors of `find`, and `RedisError` if the record can't be stored in Redis.
        """
        for _ in range(_MAX_ATTEMPTS):
            found = self._cached_or_opened(password, client, create=True)
            if found is None:
                raise DecryptionError("the vault was neither found nor created")
            vault = self._writable(found)
            if vault is not None:
                return vault
        raise UnavailableError("the vault of this password changes too often; try again")

    def searches(
        self, password: bytes, client: Client, *, is_proven: bool
    ) -> tuple[PasswordSearch, ...]:
        """Return a search for the password as sent, and one for its normal form if that differs.

        Vaults are created for the normal form. `is_proven` says that the client has opened the
        password's vault. If `is_proven` is true, and this process has opened the vault before, the
        scrypts of the search go first in the scrypt queue. If `is_proven` is false, they have no
        such priority: the speed would tell the client that the password has a vault.
        """
        key = self.cache.key(password) if is_proven else b""
        forms = dict.fromkeys((password, normal_form(password)))
        return tuple(self._search(VaultRequest(form, key, client)) for form in forms)

    def put(self, password: bytes, record: VaultRecord, vault: OpenVault) -> None:
        """Keep a vault open under its new password, which must be in normal form."""
        self._opener.keep(self.cache.key(password), record, vault)

    def close(self) -> None:
        """Close all vaults."""
        self.cache.close()

    def note_held_entries(self) -> None:
        """Start the search for missing vaults, because writers hold entries. Never blocks."""
        self._restorer.entries_are_held()

    def _writable(self, cached: CachedVault) -> OpenVault | None:
        """Store the record in Redis if it is not there, and return the vault.

        If Postgres loses the record, Redis has the only copy that outlives this process. The record
        is written before the readings, so every replica and AOF with the readings has the record.

        Return None if Redis has the record of another vault for the password. The next opening then
        asks Postgres which vault is right.
        """
        if not cached.in_redis:
            if not self._records.cache(cached.record):
                self.cache.forget_vault(cached.record.vault_id)
                self._restorer.watch(cached.record)
                return None
            cached.in_redis = True
        return cached.vault

    def _cached_or_opened(
        self, password: bytes, client: Client, *, create: bool
    ) -> CachedVault | None:
        key = self.cache.key(password)
        reservation = self.admit(client, key)
        request = VaultRequest(password, key, client, reservation)
        try:
            if self.cache.get(key) is not None:
                reservation.cancel()
            found = self._cached(request)
            if found is None:
                metrics.counter("iot_vault_cache_misses_total").inc()
                with tracing.span("open a vault"):
                    found = self._open_shared(request, create=create)
        except Exception as error:
            self.tried.count_unanswered(client, key, error)
            raise
        finally:
            reservation.cancel()
        if found is not None:
            self.tried.note_found(client, [key])
        return found

    def _cached(self, request: VaultRequest) -> CachedVault | None:
        cached = self.cache.get(request.key)
        if cached is not None and self.cache.is_due(cached):
            cached = self._renew(request, cached)
        if cached is not None:
            self.cache.note_hit()
        return cached

    def _renew(self, request: VaultRequest, cached: CachedVault) -> CachedVault | None:
        """Renew an open vault, and return it.

        Return None if the vault was erased, or if its record was changed by more than a rewrap.
        While the record can't be read, the vault is used until it expires. A record that Postgres
        lacks is restored: it is known to be good, because the vault was opened with it.
        """
        cached.in_redis = False  # the next PUT stores the record again, before it expires in Redis
        # A process of an earlier version may have created a vault for the password as sent.
        lookups, record = [*cached.missed, cached.record.lookup], None
        try:
            if not cached.missing:
                record = self._restorer.find_renewed(lookups, cached.record)
                self._restorer.watch(cached.record)
            if record is None:
                search = self._search(request, cached.missed, seconds=0)
                record = self._opener.put_back(search, cached.record, cached.vault)
        except (RedisError, *POSTGRES_UNAVAILABLE) as error:
            report(_log, "could not renew open vaults; they stay usable until they expire", error)
            self._restorer.watch(cached.record)
            return cached
        except VaultErasedError:
            self._restorer.drop_erased(cached.record)
            return None
        except (IotError, PolicyChangedError) as error:
            _log.warning(
                "could not renew an open vault; it stays usable until it expires: %s", error
            )
            self._restorer.watch(cached.record)
            return cached
        if record != cached.record:
            if not self._restorer.is_rewrapped(cached.record, record):
                self.cache.forget(request.key)
                return None
            # Redis may still have an older record: keep a record under the primary master key.
            if cached.record.master_key_id != self._keyring().primary_id:
                cached.record = record
        record = self._moved_when_idle(request, cached)
        renewed = self.cache.put(request.key, record, cached.vault, cached.missed)
        self._on_opened(cached.vault)
        return renewed

    def _moved_when_idle(self, request: VaultRequest, cached: CachedVault) -> VaultRecord:
        """Give a vault the newest lookup if the policy requires it and no other scrypt runs.

        Return the vault's record. If other scrypts run, a later renewal tries again.
        """
        # So after an upgrade, all vaults in use get the newest lookup within minutes.
        record = cached.record
        try:
            if self.policy.current().must_move(record.format, record.scrypt_log2_n):
                search = self._search(request, cached.missed, seconds=0)
                return self._opener.move(search, record, cached.vault)
        except TooManyRequestsError:
            pass  # scrypts run: a later renewal tries again
        except UnavailableError as error:
            _log.warning("a vault keeps its old lookup until a later renewal: %s", error)
        return record

    def _search(
        self,
        request: VaultRequest,
        missed: tuple[bytes, ...] = (),
        *,
        seconds: float = WAIT_SECONDS,
    ) -> PasswordSearch:
        """Return a search for the password. Each scrypt waits for its turn, at most `seconds`.

        Without `missed`, the search is for the password as sent. With `missed`, it is for the
        normal form; `missed` has the lookups of the password as sent, which have no vault.
        """
        key, client, reservation = request.key, request.client, request.reservation

        def slow_key(password: bytes, salt: bytes, log2_n: int) -> bytes:
            with self.queue.turn(key, client, seconds=seconds, reservation=reservation):
                return self._slow_key(password, salt, log2_n)

        password = normal_form(request.password) if missed else request.password
        return PasswordSearch(
            self._keyring, password, self._scrypt_log2_n, slow_key, client, missed
        )

    def _open_shared(self, request: VaultRequest, *, create: bool) -> CachedVault | None:
        key, client = request.key, request.client
        # A suspect's opening waits longer and is refused more often, so only suspects share it. An
        # opening that began before an erasure may have read the vault's record: no request after
        # the erasure may share it.
        shared_by = (key, create, self.queue.is_urgent(key, client), self.cache.changes_noted)
        open_forms = partial(self._open_forms, request, create=create)
        return self._openings.run(shared_by, client, open_forms, request.reservation.cancel)

    def _open_forms(self, request: VaultRequest, *, create: bool) -> CachedVault | None:
        """Return the vault of a password as sent, or else of its normal form.

        If neither has a vault, create one for the normal form if `create` is true; otherwise return
        None. Only old versions created vaults for passwords as sent.
        """
        search = self._search(request)
        if normal_form(request.password) != request.password:
            found = self._opener.open(search, request.key, create=False)
            if found is not None:
                return found
            search = self._search(request, search.lookups)
        return self._opener.open(search, request.key, create=create)
