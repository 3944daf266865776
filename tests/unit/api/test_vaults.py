"""Opening vaults: shared by those who bring one password, apart for those who bring others."""

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from iot_api.vaults import VaultCache, Vaults
from iot_cipher.keyring import Keyring, KeyringFile, create_keyring_file
from iot_cipher.vault import OpenVault, VaultRecord, password_key
from iot_stores.vault_records import VaultRecords
from support.waiting import wait_until

LATER = 10.0


class Records(VaultRecords):
    """Records in memory; those of the passwords in `held_up` are not told before it is let go."""

    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring
        self._records: dict[bytes, VaultRecord] = {}
        self.held_up: set[bytes] = set()
        self.go_on = threading.Event()
        self.fails = False
        self.asked = 0

    def hold_up(self, password: bytes) -> None:
        self.held_up.add(self._keyring.lookup(password))

    def forget(self, password: bytes) -> None:
        del self._records[self._keyring.lookup(password)]

    def find(self, lookup: bytes) -> VaultRecord | None:
        self.asked += 1
        if lookup in self.held_up:
            assert self.go_on.wait(LATER)
            if self.fails:
                raise ConnectionError("away")
        return self._records.get(lookup)

    def add(self, record: VaultRecord) -> VaultRecord:
        return self._records.setdefault(record.lookup, record)


@pytest.fixture
def keyring(tmp_path: Path) -> Keyring:
    """A keyring."""
    create_keyring_file(tmp_path / "keyring.json")
    return KeyringFile(tmp_path / "keyring.json").current()


@pytest.fixture
def records(keyring: Keyring) -> Records:
    """No records yet."""
    return Records(keyring)


@pytest.fixture
def keys() -> list[bytes]:
    """The passwords of which a key was made, one for each time."""
    return []


@pytest.fixture
def vaults(keyring: Keyring, records: Records, keys: list[bytes]) -> Vaults:
    """Vaults over them, none open."""

    def slow_key(password: bytes, salt: bytes, log2_n: int) -> bytes:
        keys.append(password)
        return password_key(password, salt, log2_n)

    cache = VaultCache(size=10, seconds=60)
    return Vaults(lambda: keyring, records, cache, scrypt_log2_n=10, slow_key=slow_key)


def test_a_password_that_can_not_be_told_holds_up_no_other(
    vaults: Vaults, records: Records
) -> None:
    records.hold_up(b"slow")
    with ThreadPoolExecutor() as threads:
        slow = threads.submit(vaults.find_or_create, b"slow")
        wait_until(lambda: records.asked == 1, what="the slow one's question")
        other = threads.submit(vaults.find_or_create, b"other").result(LATER)
        assert not slow.done()
        records.go_on.set()
        assert slow.result(LATER).vault_id != other.vault_id


def _ask(
    vaults: Vaults, records: Records, threads: ThreadPoolExecutor
) -> "list[Future[OpenVault]]":
    """Four that bring one password while its record is held up."""
    records.hold_up(b"same")
    asked = [threads.submit(vaults.find_or_create, b"same") for _ in range(4)]
    wait_until(lambda: records.asked == 1 and all(each.running() for each in asked), what="all")
    records.go_on.set()
    return asked


def test_one_password_is_opened_once(vaults: Vaults, records: Records, keys: list[bytes]) -> None:
    with ThreadPoolExecutor(max_workers=4) as threads:
        opened = [each.result(LATER) for each in _ask(vaults, records, threads)]
    assert len({vault.vault_id for vault in opened}) == 1
    assert keys == [b"same"]


def test_a_failure_is_not_remembered(vaults: Vaults, records: Records) -> None:
    records.fails = True
    with ThreadPoolExecutor(max_workers=4) as threads:
        for each in _ask(vaults, records, threads):
            assert isinstance(each.exception(LATER), ConnectionError)
    records.held_up.clear()
    assert vaults.find_or_create(b"same") == vaults.held(b"same")


def test_a_password_in_use_costs_one_slow_key(
    keyring: Keyring, records: Records, keys: list[bytes]
) -> None:
    """Time and again its record is looked up; while that is the same, so is the key."""

    def slow_key(password: bytes, salt: bytes, log2_n: int) -> bytes:
        keys.append(password)
        return password_key(password, salt, log2_n)

    cache = VaultCache(size=10, seconds=0)
    vaults = Vaults(lambda: keyring, records, cache, scrypt_log2_n=10, slow_key=slow_key)
    first = vaults.find_or_create(b"p")
    asked = records.asked
    assert [vaults.find_or_create(b"p") for _ in range(3)] == [first] * 3
    assert keys == [b"p"]
    assert records.asked == asked + 3
    records.forget(b"p")
    assert vaults.find(b"p") is None
    assert vaults.find_or_create(b"p") != first
    assert keys == [b"p", b"p"]


def test_what_was_there_and_is_opened_is_told_once(keyring: Keyring, records: Records) -> None:
    """A vault just made has nothing in it, and one that is held was told of."""
    opened: list[OpenVault] = []

    def process() -> Vaults:
        cache = VaultCache(size=10, seconds=60)
        return Vaults(lambda: keyring, records, cache, scrypt_log2_n=10, opened=opened.append)

    one, other = process(), process()
    assert one.find(b"new") is None
    one.find_or_create(b"new")
    one.find(b"new")
    assert opened == []
    vault = other.find(b"new")
    other.find_or_create(b"new")
    assert opened == [vault]
