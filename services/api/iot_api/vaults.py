"""Vaults as an API process sees them: found by password, opened, kept open for some minutes."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future

from iot_cipher.keyring import Keyring
from iot_cipher.vault import (
    OpenVault,
    PasswordKey,
    VaultRecord,
    create_vault,
    open_vault,
    password_key,
)
from iot_models import metrics
from iot_models.errors import DecryptionError
from iot_stores.vault_records import VaultRecords


class VaultCache:
    """Opened vaults by lookup, at most `size`, each for `seconds` and then until it is renewed."""

    def __init__(
        self, *, size: int, seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._size = size
        self._seconds = seconds
        self._clock = clock
        self._vaults: OrderedDict[bytes, tuple[float, OpenVault, VaultRecord]] = OrderedDict()

    def get(self, lookup: bytes) -> OpenVault | None:
        """The open vault, if it is held and its time is not over."""
        held = self._vaults.get(lookup)
        return None if held is None or self._clock() >= held[0] else held[1]

    def renewed(self, record: VaultRecord) -> OpenVault | None:
        """The open vault, also when its time is over, if this is the record it was opened from. It
        spares the slow opening: the same password and record give the same key.
        """
        held = self._vaults.pop(record.lookup, None)
        return held[1] if held is not None and held[2] == record else None

    def forget(self, lookup: bytes) -> None:
        """Hold it no longer."""
        self._vaults.pop(lookup, None)

    def put(self, record: VaultRecord, vault: OpenVault) -> None:
        """Hold a vault from now on; the one held longest makes room."""
        lookup = record.lookup
        self._vaults[lookup] = (self._clock() + self._seconds, vault, record)
        self._vaults.move_to_end(lookup)
        while len(self._vaults) > self._size:
            self._vaults.popitem(last=False)


class Vaults:
    """Opens vaults. One scrypt runs at a time in a process: it bounds the memory they take.

    Requests that bring the same password at once share one opening, whatever comes of it. Nobody
    waits for another password's: a store that doesn't answer would hold up all of them, one after
    the other.
    """

    def __init__(
        self,
        keyring: Callable[[], Keyring],
        records: VaultRecords,
        cache: VaultCache,
        *,
        scrypt_log2_n: int,
        slow_key: PasswordKey = password_key,
        opened: Callable[[OpenVault], None] = lambda _: None,
    ) -> None:
        """`opened` is called with each vault that was there and is opened; it must cost nothing."""
        self._opened = opened
        self._keyring = keyring
        self._records = records
        self._cache = cache
        self._scrypt_log2_n = scrypt_log2_n
        self._slow_key = slow_key
        self._one_key_at_a_time = threading.Lock()
        self._under_way: dict[tuple[bytes, bool], Future[OpenVault | None]] = {}

    def held(self, password: bytes) -> OpenVault | None:
        """The password's vault if this process has it open."""
        return self._cache.get(self._keyring().lookup(password))

    def find(self, password: bytes) -> OpenVault | None:
        """The password's vault, or None when there is none.

        Raises:
            DecryptionError: its record is damaged, or its master key is not in the keyring.
            RedisError, psycopg.Error: it can't be told now.
        """
        return self._open(password, create=False)

    def find_or_create(self, password: bytes) -> OpenVault:
        """The password's vault, made if there is none. Raises what `find` raises."""
        vault = self._open(password, create=True)
        if vault is None:
            raise DecryptionError("a vault could neither be found nor made")
        return vault

    def _open(self, password: bytes, *, create: bool) -> OpenVault | None:
        keyring = self._keyring()
        lookup = keyring.lookup(password)
        vault = self._cache.get(lookup)
        if vault is not None:
            return vault
        ours: Future[OpenVault | None] = Future()
        opening = self._under_way.setdefault((lookup, create), ours)
        try:
            if opening is ours:
                self._do(ours, keyring, lookup, password, create=create)
            return opening.result()
        finally:
            del ours, opening  # what an error's traceback holds must not hold the error

    def _do(
        self,
        opening: "Future[OpenVault | None]",
        keyring: Keyring,
        lookup: bytes,
        password: bytes,
        *,
        create: bool,
    ) -> None:
        try:
            opening.set_result(self._look_up(keyring, lookup, password, create=create))
        except BaseException as error:  # noqa: BLE001 - raised to all who wait for it, us too
            opening.set_exception(error)
        finally:
            del self._under_way[lookup, create], opening

    def _look_up(
        self, keyring: Keyring, lookup: bytes, password: bytes, *, create: bool
    ) -> OpenVault | None:
        record = self._records.find(lookup)
        if record is None:
            self._cache.forget(lookup)
            if not create:
                return None
            fresh, vault = create_vault(
                keyring, password, self._scrypt_log2_n, slow_key=self._one_key
            )
            record = self._records.add(fresh)
            metrics.counter("iot_vaults_opened_total").labels("created").inc()
            if record.vault_id == fresh.vault_id:
                self._cache.put(record, vault)
                return vault
        found = self._cache.renewed(record) or self._open_slowly(keyring, record, password)
        self._cache.put(record, found)
        self._opened(found)
        return found

    def _open_slowly(self, keyring: Keyring, record: VaultRecord, password: bytes) -> OpenVault:
        metrics.counter("iot_vaults_opened_total").labels("found").inc()
        try:
            return open_vault(keyring, record, password, slow_key=self._one_key)
        except DecryptionError:
            metrics.counter("iot_damaged_total").labels("vault").inc()
            raise

    def _one_key(self, password: bytes, salt: bytes, log2_n: int) -> bytes:
        with self._one_key_at_a_time:
            return self._slow_key(password, salt, log2_n)
