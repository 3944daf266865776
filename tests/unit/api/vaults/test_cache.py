"""The cache of open vaults."""

import uuid
from dataclasses import replace

from iot_api.vaults.cache import UNSETTLED_SECONDS, VaultCache
from iot_cipher.encryption import OpenVault
from iot_cipher.vault import VaultRecord
from iot_stores.password_changes import SETTLING_SECONDS
from support.clock import Clock
from support.waiting import wait_until


def record(number: int) -> VaultRecord:
    return VaultRecord(uuid.UUID(int=number), b"%d" % number, bytes(16), 14, b"wrapped")


def vault(number: int) -> OpenVault:
    return OpenVault(uuid.UUID(int=number), bytes(32))


def test_a_vault_expires() -> None:
    clock = Clock()
    cache = VaultCache(size=10, seconds=5, clock=clock)
    cache.put(b"1", record(1), vault(1))
    clock.now = 4.9
    held = cache.get(b"1")
    assert held is not None
    assert (held.vault.vault_id, held.record) == (uuid.UUID(int=1), record(1))
    clock.now = 5.0
    assert cache.get(b"1") is None
    cache.close()


def test_one_caller_renews_a_vault_at_half_of_its_time() -> None:
    clock = Clock()
    cache = VaultCache(size=10, seconds=10, clock=clock)
    cache.put(b"1", record(1), vault(1))
    clock.now = 4.9
    held = cache.get(b"1")
    assert held is not None
    assert not cache.is_due(held)
    clock.now = 5.0
    assert cache.is_due(held)
    assert not cache.is_due(held)
    cache.put(b"1", record(1), vault(1))
    clock.now = 14.9
    assert cache.get(b"1") is not None
    cache.close()


def test_only_a_proven_password_reads_without_the_guess_limit() -> None:
    """Of a vault whose password was changed, the old password proves nothing about the new one."""
    clock = Clock()
    cache = VaultCache(size=10, seconds=10, clock=clock)
    kept = cache.put(cache.key(b"old"), record(1), vault(1))
    assert cache.readable(b"old", {cache.key(b"old")}) is kept.vault
    kept = cache.put(cache.key(b"new"), record(1), vault(1))
    assert cache.readable(b"new", {cache.key(b"old"), kept.vault.vault_id}) is None
    clock.now = 5.0
    assert cache.readable(b"old", {cache.key(b"old")}) is None  # due to be renewed
    cache.close()


def test_the_data_key_of_an_unused_vault_is_dropped_at_expiry() -> None:
    clock = Clock()
    cache = VaultCache(size=10, seconds=5, clock=clock)
    cache.put(b"1", record(1), vault(1))
    cache.put(b"2", record(2), vault(2))
    clock.now = 3.0
    cache.put(b"1", record(1), vault(1))
    clock.now = 5.0
    assert cache.drop_expired() == 1
    assert cache.get(b"1") is not None
    clock.now = 8.0
    assert cache.drop_expired() == 1
    assert cache.drop_expired() == 0
    cache.close()


def test_expired_vaults_are_dropped_without_requests() -> None:
    cache = VaultCache(size=10, seconds=0.05)
    cache.put(b"1", record(1), vault(1))
    wait_until(lambda: not cache._vaults, what="an empty cache")  # noqa: SLF001 - its memory
    cache.close()


def test_a_full_cache_drops_the_vault_that_expires_first() -> None:
    cache = VaultCache(size=2, seconds=5, clock=Clock())
    for number in (1, 2, 1, 3):
        cache.put(b"%d" % number, record(number), vault(number))
    assert [cache.get(each) is not None for each in (b"1", b"2", b"3")] == [True, False, True]
    cache.close()


def test_a_forgotten_vault_is_not_returned() -> None:
    cache = VaultCache(size=10, seconds=5, clock=Clock())
    cache.put(b"1", record(1), vault(1))
    cache.forget(b"1")
    cache.forget(b"1")
    assert cache.get(b"1") is None
    cache.close()


def test_cache_keys_differ_between_processes() -> None:
    one, other = VaultCache(size=1, seconds=1), VaultCache(size=1, seconds=1)
    assert one.key(b"p") == one.key(b"p")
    assert len({one.key(b"p"), one.key(b"q"), other.key(b"p")}) == 3


def test_repr_shows_no_key() -> None:
    cache = VaultCache(size=1, seconds=5)
    cache.put(b"1", record(1), vault(1))
    assert "OpenVault" not in repr(cache.get(b"1"))
    cache.close()


def test_a_changed_password_drops_the_vault_except_under_the_new_password() -> None:
    cache = VaultCache(size=10, seconds=600, clock=Clock())
    for key, lookup in ((b"old", b"1"), (b"new", b"2")):
        cache.put(key, replace(record(1), lookup=lookup), vault(1))
    cache.put(b"other", record(7), vault(7))
    cache.note_change(uuid.UUID(int=1), b"2")
    assert cache.get(b"old") is None
    assert cache.get(b"new") is not None
    assert cache.get(b"other") is not None
    cache.close()


def test_an_old_password_is_kept_half_a_second_until_the_change_has_settled() -> None:
    clock = Clock()
    cache = VaultCache(size=10, seconds=600, clock=clock)
    cache.put(b"other", record(7), vault(7))
    cache.note_change(uuid.UUID(int=1), b"2")
    cache.put(b"old", record(1), vault(1))
    cache.put(b"new", replace(record(1), lookup=b"2"), vault(1))
    assert cache.get(b"old") is not None
    clock.now = UNSETTLED_SECONDS
    assert cache.get(b"old") is None
    assert cache.drop_expired() == 1  # the data key leaves memory
    assert cache.get(b"new") is not None
    clock.now = SETTLING_SECONDS
    cache.put(b"old", record(1), vault(1))  # the change was not made
    clock.now += UNSETTLED_SECONDS
    assert cache.get(b"old") is not None
    cache.close()
