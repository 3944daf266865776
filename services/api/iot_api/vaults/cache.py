"""Opened vaults of an API process, for as long as they are in use."""

import hmac
import os
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from iot_cipher.vault import OpenVault, VaultRecord

RENEW_SECONDS = 300.0
"""A vault in use has its record looked at again this often; where it is held for less than twice as
long, in half of that time."""
_DROP_EVERY_SECONDS = 5.0
_CLOSE_SECONDS = 2.0


@dataclass(slots=True)
class HeldVault:
    """An opened vault, and the record that it was opened from."""

    vault: OpenVault = field(repr=False)
    record: VaultRecord = field(repr=False)
    renew_at: float
    """From then on its next use looks at its record again; unchanged, it is held on."""
    expires_at: float
    """From then on it is not used, and its data key is dropped within seconds."""
    missed: tuple[bytes, ...]
    """Lookups of the password as it was sent, if only its normal form has a vault."""
    missing: bool = False
    """Whether Postgres lacks it, and gets it back only with a request that has its password."""
    in_redis: bool = False
    """Whether Redis has the record too: the next PUT stores it there first if not."""


class VaultCache:
    """At most `size` opened vaults, each for `seconds` after it was opened or renewed.

    A vault in use is renewed every `RENEW_SECONDS`, which costs no scrypt. One that is not used is
    dropped when its time is over, and its data key with it.

    Keys are HMACs of passwords under a secret of this process, which is stored nowhere.
    """

    def __init__(
        self, *, size: int, seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._size = size
        self._seconds = seconds
        self._clock = clock
        self._secret = os.urandom(32)
        self._held: OrderedDict[bytes, HeldVault] = OrderedDict()
        """The one that expires first comes first."""
        self._closing = threading.Event()
        self._dropper: threading.Thread | None = None

    def key(self, password: bytes) -> bytes:
        """The name of a password in this process."""
        return hmac.digest(self._secret, password, "sha256")

    def get(self, key: bytes) -> HeldVault | None:
        """What is held of a password, if its time is not over."""
        held = self._held.get(key)
        return None if held is None or self._clock() >= held.expires_at else held

    def is_due(self, held: HeldVault) -> bool:
        """Whether its record is to be looked at again, by this caller alone."""
        if self._clock() < held.renew_at:
            return False
        held.renew_at = held.expires_at  # nobody else does it meanwhile
        return True

    def put(
        self,
        key: bytes,
        record: VaultRecord,
        vault: OpenVault,
        missed: tuple[bytes, ...] = (),
    ) -> HeldVault:
        """Hold a vault from now on; the one that expires first makes room."""
        now = self._clock()
        renew_at = now + min(RENEW_SECONDS, self._seconds / 2)
        held = HeldVault(vault, record, renew_at, now + self._seconds, missed)
        self._held[key] = held
        self._held.move_to_end(key)
        while len(self._held) > self._size:
            self._held.popitem(last=False)
        if self._dropper is None:
            self._dropper = threading.Thread(target=self._drop_on, name="vault-cache", daemon=True)
            self._dropper.start()
        return held

    def forget(self, key: bytes) -> None:
        """Hold a vault no longer."""
        self._held.pop(key, None)

    def forget_vault(self, vault_id: uuid.UUID) -> None:
        """Hold a vault no longer, whatever its password."""
        for key, held in list(self._held.items()):
            if held.record.vault_id == vault_id:
                self.forget(key)

    def mark_missing(self, vault_id: uuid.UUID) -> None:
        """Let the next use of a vault put it back into Postgres."""
        for held in list(self._held.values()):
            if held.record.vault_id == vault_id:
                held.missing, held.renew_at = True, self._clock()

    def records(self) -> list[VaultRecord]:
        """The records of all vaults that are held."""
        return [held.record for held in list(self._held.values())]

    def drop_expired(self) -> int:
        """Drop all vaults whose time is over; how many."""
        dropped = 0
        now = self._clock()
        while self._held:
            key, held = next(iter(self._held.items()))
            if now < held.expires_at:
                break
            self._held.pop(key, None)
            dropped += 1
        return dropped

    def close(self) -> None:
        """Drop everything."""
        self._closing.set()
        self._held.clear()
        if self._dropper is not None:
            self._dropper.join(_CLOSE_SECONDS)

    def _drop_on(self) -> None:
        while not self._closing.wait(min(_DROP_EVERY_SECONDS, self._seconds)):
            self.drop_expired()
