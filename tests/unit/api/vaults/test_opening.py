"""Opening vaults: shared between requests with one password, independent between passwords."""

import uuid
from concurrent.futures import Future, ThreadPoolExecutor

from iot_api.vaults.cache import VaultCache
from iot_api.vaults.opening import Vaults
from iot_cipher.encryption import OpenVault
from iot_cipher.keyring import Keyring
from iot_cipher.vault import PasswordKey
from iot_stores.password_changes import ERASED
from support.clock import Clock
from support.waiting import wait_until
from unit.api.vaults.conftest import MakeVaults

from .in_memory import CLIENT, LATER, NoGuesses, Records, lookup, restorer


def test_a_blocked_lookup_delays_no_other_password(
    vaults: Vaults, records: Records, keyring: Keyring
) -> None:
    records.hold_up(lookup(keyring, b"slow"))
    with ThreadPoolExecutor() as threads:
        slow = threads.submit(vaults.find_or_create, b"slow", CLIENT)
        wait_until(lambda: records.asked == 1, what="the slow one's question")
        other = threads.submit(vaults.find_or_create, b"other", CLIENT).result(LATER)
        assert not slow.done()
        records.go_on.set()
        assert slow.result(LATER).vault_id != other.vault_id


def _ask(
    vaults: Vaults, records: Records, keyring: Keyring, threads: ThreadPoolExecutor
) -> "list[Future[OpenVault]]":
    """Return four concurrent openings of one password whose lookup is blocked."""
    records.hold_up(lookup(keyring, b"same"))
    asked = [threads.submit(vaults.find_or_create, b"same", CLIENT) for _ in range(4)]
    wait_until(lambda: records.asked == 1 and all(each.running() for each in asked), what="all")
    records.go_on.set()
    return asked


def test_concurrent_requests_share_one_opening(
    vaults: Vaults, records: Records, keyring: Keyring, keys: list[bytes], guesses: NoGuesses
) -> None:
    with ThreadPoolExecutor(max_workers=4) as threads:
        opened = [each.result(LATER) for each in _ask(vaults, records, keyring, threads)]
    assert len({vault.vault_id for vault in opened}) == 1
    assert keys == [b"same"]
    assert guesses.counted == 1


def test_a_failed_opening_is_retried(
    vaults: Vaults, records: Records, keyring: Keyring, guesses: NoGuesses
) -> None:
    records.fails = True
    with ThreadPoolExecutor(max_workers=4) as threads:
        for each in _ask(vaults, records, keyring, threads):
            assert isinstance(each.exception(LATER), ConnectionError)
    records.held_up.clear()
    assert vaults.find_or_create(b"same", CLIENT) == vaults.find(b"same", CLIENT)
    assert not guesses.unanswered, "a store that is away locks out no client"


def test_a_password_in_use_costs_one_scrypt(
    keyring: Keyring,
    records: Records,
    keys: list[bytes],
    noted_key: PasswordKey,
    make_vaults: MakeVaults,
) -> None:
    """The record is read again from time to time. While it is unchanged, no scrypt is needed."""
    clock = Clock()
    vaults = make_vaults(VaultCache(size=10, seconds=10, clock=clock), noted_key)
    first = vaults.find_or_create(b"p", CLIENT)
    asked = records.asked
    for _ in range(3):
        clock.now += 6
        assert [vaults.find_or_create(b"p", CLIENT) for _ in range(2)] == [first] * 2
    assert keys == [b"p"]
    assert records.asked == asked + 3
    records.clear()
    clock.now += 6
    assert vaults.find(b"p", CLIENT) == first, "a vault that Postgres lost was not put back"
    assert records.find([lookup(keyring, b"p")]).record is not None
    assert keys == [b"p"]
    vaults.close()


def test_an_existing_vault_is_reported_once_when_it_is_opened(
    keyring: Keyring, records: Records, guesses: NoGuesses
) -> None:
    """A new vault has no segments, and an open vault was reported before."""
    opened: list[OpenVault] = []

    def process() -> Vaults:
        cache = VaultCache(size=10, seconds=60)
        return Vaults(
            lambda: keyring,
            restorer(records, cache, keyring),
            guesses,
            scrypt_log2_n=10,
            on_opened=opened.append,
        )

    one, other = process(), process()
    assert one.find(b"new", CLIENT) is None
    one.find_or_create(b"new", CLIENT)
    one.find(b"new", CLIENT)
    assert opened == []
    vault = other.find(b"new", CLIENT)
    other.find_or_create(b"new", CLIENT)
    assert opened == [vault]
    assert guesses.counted == 2
    one.close()
    other.close()


def test_a_request_after_an_erasure_joins_no_opening_from_before(
    vaults: Vaults, records: Records, keyring: Keyring, keys: list[bytes]
) -> None:
    """The opening has read the record of the erased vault: its readings would be dropped."""
    with ThreadPoolExecutor() as threads:
        records.hold_up(lookup(keyring, b"same"))
        before = threads.submit(vaults.find_or_create, b"same", CLIENT)
        wait_until(lambda: records.asked == 1, what="an opening that reads the record")
        vaults.cache.note_change(uuid.uuid4(), ERASED)
        after = threads.submit(vaults.find_or_create, b"same", CLIENT)
        wait_until(lambda: keys == [b"same"] * 2, what="another opening")
        records.go_on.set()
        assert before.result(LATER).vault_id == after.result(LATER).vault_id
