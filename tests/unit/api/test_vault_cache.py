"""The open vaults an API process holds."""

import uuid
from dataclasses import replace

from iot_api.vaults import VaultCache
from iot_cipher.vault import OpenVault, VaultRecord


class Clock:
    """A clock that a test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def record(number: int) -> VaultRecord:
    return VaultRecord(uuid.UUID(int=number), b"%d" % number, bytes(16), 14, b"wrapped")


def vault(number: int) -> OpenVault:
    return OpenVault(uuid.UUID(int=number), bytes(32))


def test_a_vault_is_held_for_its_time_and_no_longer() -> None:
    """Use doesn't lengthen it: a vault that was erased must be let go at some time."""
    clock = Clock()
    cache = VaultCache(size=10, seconds=5, clock=clock)
    held = vault(1)
    cache.put(record(1), held)
    clock.now = 4.9
    assert cache.get(b"1") is held
    clock.now = 5.0
    assert cache.get(b"1") is None


def test_the_one_held_longest_makes_room() -> None:
    cache = VaultCache(size=2, seconds=5, clock=Clock())
    first, second, third = vault(1), vault(2), vault(3)
    cache.put(record(1), first)
    cache.put(record(2), second)
    cache.put(record(1), first)
    cache.put(record(3), third)
    assert [cache.get(each) for each in (b"1", b"2", b"3")] == [first, None, third]
    assert cache.renewed(record(2)) is None


def test_a_vault_put_again_is_held_anew() -> None:
    clock = Clock()
    cache = VaultCache(size=2, seconds=5, clock=clock)
    cache.put(record(1), vault(1))
    clock.now = 3.0
    cache.put(record(1), vault(1))
    clock.now = 7.0
    assert cache.get(b"1") is not None


def test_a_vault_whose_time_is_over_is_renewed_by_its_record_alone() -> None:
    clock = Clock()
    cache = VaultCache(size=10, seconds=5, clock=clock)
    held = vault(1)
    for other in (replace(record(1), wrapped_key=b"anew"), replace(record(1), salt=b"1" * 16)):
        cache.put(record(1), held)
        clock.now += 5.0
        assert cache.renewed(other) is None
        assert cache.renewed(record(1)) is None  # let go of
    cache.put(record(1), held)
    clock.now += 5.0
    assert cache.renewed(record(1)) is held


def test_a_vault_that_is_gone_is_forgotten() -> None:
    cache = VaultCache(size=10, seconds=5, clock=Clock())
    cache.put(record(1), vault(1))
    cache.forget(b"1")
    cache.forget(b"1")
    assert cache.get(b"1") is None
    assert cache.renewed(record(1)) is None
