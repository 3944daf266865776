"""A cache of open vaults in an API process."""

import math
import os
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass, field
from hashlib import blake2b

from iot_cipher.encryption import OpenVault
from iot_cipher.vault import VaultRecord
from iot_models import metrics
from iot_stores.password_changes import ERASED

from .unsettled_changes import UnsettledChanges

RENEW_SECONDS = 300.0
"""The record of a vault in use is read again after this time, or after half of the cache's
`seconds` if that is shorter."""
UNSETTLED_SECONDS = 0.5
"""If a vault is opened with its old password within `SETTLING_SECONDS` after a change of the
password was announced, the cache keeps the vault for only this long."""
_DROP_EVERY_SECONDS = 5.0
_CLOSE_SECONDS = 2.0


@dataclass(slots=True)
class CachedVault:
    """An open vault, and the record that it was opened from."""

    vault: OpenVault = field(repr=False)
    record: VaultRecord = field(repr=False)
    renew_at: float
    """The first use after this time reads the record again."""
    expires_at: float
    """After this time the vault is not used, and its data key is dropped within seconds."""
    missed: tuple[bytes, ...]
    """If `vault` belongs to the normal form of the password (`password_form`), and the client sent
    another form: the lookups of the form that the client sent. No vault was found under these
    lookups. In all other cases, `missed` is empty."""
    missing: bool = False
    """Whether Postgres lacks the record, and only a request with the password can restore it."""
    in_redis: bool = False
    """Whether Redis has the record, too. If not, the next PUT first stores the record there."""


class VaultCache:
    """At most `size` open vaults, each for `seconds` after it was opened or renewed.

    A vault in use is renewed every `RENEW_SECONDS`, without a scrypt. An unused vault is dropped
    after `seconds`, with its data key. A cache key is a keyed hash (BLAKE2b) of a password under a
    random secret of this process.
    """

    def __init__(
        self, *, size: int, seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._size = size
        self._seconds = seconds
        self._clock = clock
        self._secret = os.urandom(32)
        self._vaults: OrderedDict[bytes, CachedVault] = OrderedDict()
        """By cache key, in order of expiry, the earliest first."""
        self._changes = UnsettledChanges(clock)
        self.changes_noted = 0
        """Number of announced changes of passwords and erasures that this process has noted."""
        self.followed_until = math.inf
        """Until this time, open vaults may be used without reading the announced changes again.

        The time is `ANNOUNCED_SECONDS` after the start of the last read. A change is carried out no
        earlier than `ANNOUNCED_SECONDS` after its announcement. So the last read returned all
        changes that are carried out before this time. `inf` if no `ChangeFollower` runs."""
        self._hits = metrics.pending_count("iot_vault_cache_hits_total")
        self._closing = threading.Event()
        self._dropper: threading.Thread | None = None

    def key(self, password: bytes) -> bytes:
        """Return the cache key of a password."""
        # An HMAC with OpenSSL takes three times as long.
        return blake2b(password, digest_size=32, key=self._secret).digest()

    def writable(self, key: bytes) -> OpenVault | None:
        """Return the open vault of a cache key if a PUT may append readings for it immediately.

        Return None if the vault is not open, if its record is due to be read again, or if Redis may
        lack the record. Also return None if this process has not read the announced changes of
        vaults (`PasswordChanges`) for `ANNOUNCED_SECONDS`. If the result is None, the caller calls
        `Vaults.open_vault` or `Vaults.find_or_create`.
        """
        cached = self._vaults.get(key)
        if cached is None or not cached.in_redis:
            return None
        now = self._clock()
        if now >= cached.renew_at or now >= self.followed_until:
            return None
        self._hits.value += 1
        return cached.vault

    def readable(self, password: bytes, proven: Container[object]) -> OpenVault | None:
        """Return the open vault of a password that this connection's client has proven to know.

        `proven` has the cache keys of all passwords that the client has proven to know. Return None
        if `proven` lacks the password's cache key, if the vault is not open, if its record is due
        to be read again, or if this process last read the announced changes at least
        `ANNOUNCED_SECONDS` ago. If the result is None, the caller calls `Vaults.find`.
        """
        key = self.key(password)
        cached = self._vaults.get(key) if key in proven else None
        if cached is None:
            return None
        now = self._clock()
        if now >= cached.renew_at or now >= self.followed_until:
            return None
        self._hits.value += 1
        return cached.vault

    def note_hit(self) -> None:
        """Count a cache hit. `get` counts none: its caller decides whether the vault is used."""
        self._hits.value += 1

    def get(self, key: bytes) -> CachedVault | None:
        """Return the open vault of a cache key; None if it is not open or has expired."""
        cached = self._vaults.get(key)
        return None if cached is None or self._clock() >= cached.expires_at else cached

    def is_due(self, cached: CachedVault) -> bool:
        """Return whether the caller must read the vault's record again, from Redis or Postgres.

        When a record is due, only one of several callers gets True.
        """
        if self._clock() < cached.renew_at:
            return False
        cached.renew_at = cached.expires_at  # so that no other caller gets True
        return True

    def put(
        self,
        key: bytes,
        record: VaultRecord,
        vault: OpenVault,
        missed: tuple[bytes, ...] = (),
    ) -> CachedVault:
        """Add an open vault, and return its `CachedVault`.

        If the cache is full, drop the vault that expires first. `missed` is as in `CachedVault`.
        """
        now, seconds = self._clock(), self._seconds
        change = self._changes.outdating(record)
        if change is not None:
            seconds = min(0.0 if change.lookup == ERASED else UNSETTLED_SECONDS, seconds)
        renew_at = now + min(RENEW_SECONDS, seconds / 2)
        cached = CachedVault(vault, record, renew_at, now + seconds, missed)
        self._vaults[key] = cached
        self._vaults.move_to_end(key, last=change is None)
        while len(self._vaults) > self._size:
            self._vaults.popitem(last=False)
        if self._dropper is None:
            self._dropper = threading.Thread(
                target=self._drop_periodically, name="vault-cache", daemon=True
            )
            self._dropper.start()
        return cached

    def note_change(self, vault_id: uuid.UUID, lookup: bytes) -> None:
        """Drop a vault whose password is being changed, or that is being erased.

        `lookup` is the lookup of the new password; for an erasure, it is `ERASING` or `ERASED`. A
        vault that was opened with the new password is kept.

        If the old record opens the vault again within the next `SETTLING_SECONDS`, the cache keeps
        the vault for only `UNSETTLED_SECONDS`; if `lookup` is `ERASED`, it does not keep the vault.
        """
        self.changes_noted += 1
        self._changes.note(vault_id, lookup)
        for key, cached in list(self._vaults.items()):
            if cached.record.vault_id == vault_id and cached.record.lookup != lookup:
                self.forget(key)

    def forget(self, key: bytes) -> None:
        """Drop the vault of a cache key."""
        self._vaults.pop(key, None)

    def forget_vault(self, vault_id: uuid.UUID) -> None:
        """Drop a vault, under all its cache keys."""
        for key, cached in list(self._vaults.items()):
            if cached.record.vault_id == vault_id:
                self.forget(key)

    def replace_records(self, changes: Iterable[tuple[VaultRecord, VaultRecord]]) -> None:
        """Replace old records of open vaults by new records, which the next PUT stores in Redis."""
        new_records = {old.wrapped_key: new for old, new in changes}
        for cached in list(self._vaults.values()):
            new = new_records.get(cached.record.wrapped_key)
            if new is not None:
                cached.record, cached.in_redis = new, False

    def mark_missing(self, vault_id: uuid.UUID) -> None:
        """Make the next use of a vault restore its record in Postgres."""
        for cached in list(self._vaults.values()):
            if cached.record.vault_id == vault_id:
                cached.missing, cached.renew_at = True, self._clock()

    def forget_redis(self) -> None:
        """Forget which records are in Redis: the next PUT of each vault stores its record again."""
        for cached in list(self._vaults.values()):
            cached.in_redis = False

    def records(self) -> list[VaultRecord]:
        """Return the records of all open vaults."""
        return [cached.record for cached in list(self._vaults.values())]

    def drop_expired(self) -> int:
        """Drop all expired vaults; return their number."""
        dropped = 0
        now = self._clock()
        while self._vaults:
            key, cached = next(iter(self._vaults.items()))
            if now < cached.expires_at:
                break
            self._vaults.pop(key, None)
            dropped += 1
        return dropped

    def close(self) -> None:
        """Drop all vaults, and stop the thread that drops expired vaults."""
        self._closing.set()
        self._vaults.clear()
        if self._dropper is not None:
            self._dropper.join(_CLOSE_SECONDS)

    def _drop_periodically(self) -> None:
        while not self._closing.wait(min(_DROP_EVERY_SECONDS, self._seconds)):
            self.drop_expired()
