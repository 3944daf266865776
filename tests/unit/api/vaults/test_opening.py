"""Opening vaults: shared between requests with one password, independent between passwords."""

import uuid
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

import pytest

from iot_api.limits.clients import Client
from iot_api.vaults.cache import VaultCache
from iot_api.vaults.opening import Vaults
from iot_cipher.encryption import OpenVault
from iot_cipher.keyring import Keyring
from iot_cipher.vault import PasswordKey, VaultRecord, password_key, scrypt_secret, wrap_vault
from iot_models.errors import UnavailableError
from iot_stores.password_changes import ERASED
from iot_stores.vault_lookups import LookupPolicy
from support.clock import Clock
from support.waiting import wait_until
from unit.api.vaults.conftest import MakeVaults

from .in_memory import CLIENT, LATER, POLICY, NoGuesses, Records, lookup, restorer


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


def test_a_failed_opening_keeps_no_reservation(
    vaults: Vaults, records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Failures before a scrypt, for example while Postgres is away, would fill the queue."""

    def invalid_policy(_: int) -> LookupPolicy:
        raise UnavailableError("invalid")

    monkeypatch.setattr(records, "raise_cost", invalid_policy)
    with pytest.raises(UnavailableError):
        vaults.find(b"p", CLIENT)
    assert vaults.queue.waiting == 0


def test_a_renewal_waits_for_no_scrypt(make_vaults: MakeVaults) -> None:
    """A vault of an old scrypt cost is in use, and another password is being opened."""
    clock = Clock()
    vaults = make_vaults(VaultCache(size=10, seconds=10, clock=clock), password_key)
    first = vaults.find_or_create(b"p", CLIENT)
    vaults.policy.known = replace(POLICY, costs=(10, 11))
    clock.now += 6
    with ThreadPoolExecutor() as threads, vaults.queue.turn(b"other", Client("other")):
        assert threads.submit(vaults.find, b"p", Client("new")).result(LATER) == first
    vaults.close()


def test_a_record_that_postgres_has_under_an_older_lookup_is_not_hidden(
    vaults: Vaults, records: Records, keyring: Keyring, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Postgres was restored from a backup from before the scrypt cost was raised. Redis still has
    the record of the higher cost, under the same password.
    """
    vault = vaults.find_or_create(b"p", CLIENT)
    older = records.find([lookup(keyring, b"p")]).record
    newer = wrap_vault(keyring, vault, scrypt_secret(keyring, b"p", 11))
    vaults.cache.forget_vault(vault.vault_id)
    vaults.policy.known = replace(POLICY, costs=(11,))
    hidden: list[VaultRecord] = []
    monkeypatch.setattr(records, "raise_cost", lambda _: replace(POLICY, costs=(10, 11)))
    monkeypatch.setattr(records, "find_cached", lambda _: newer)
    monkeypatch.setattr(records, "restore", lambda _: older)
    monkeypatch.setattr(records, "replace", lambda _old, _new: False)
    monkeypatch.setattr(records, "hide", hidden.append)
    found = vaults.find(b"p", CLIENT)
    assert found is not None
    assert found.vault_id == vault.vault_id
    assert hidden == []
