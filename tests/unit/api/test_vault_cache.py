"""The open vaults an API process holds."""

import uuid

from iot_api.vaults import VaultCache
from iot_cipher.vault import OpenVault


class Clock:
    """A clock that a test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def vault(number: int) -> OpenVault:
    return OpenVault(uuid.UUID(int=number), bytes(32))


def test_a_vault_is_held_for_its_time_and_no_longer() -> None:
    """Use doesn't lengthen it: a vault that was erased must be let go at some time."""
    clock = Clock()
    cache = VaultCache(size=10, seconds=5, clock=clock)
    held = vault(1)
    cache.put(b"1", held)
    clock.now = 4.9
    assert cache.get(b"1") is held
    clock.now = 5.0
    assert cache.get(b"1") is None
    clock.now = 4.0
    assert cache.get(b"1") is None  # it is gone, not hidden


def test_the_one_held_longest_makes_room() -> None:
    cache = VaultCache(size=2, seconds=5, clock=Clock())
    first, second, third = vault(1), vault(2), vault(3)
    cache.put(b"1", first)
    cache.put(b"2", second)
    cache.put(b"1", first)
    cache.put(b"3", third)
    assert [cache.get(each) for each in (b"1", b"2", b"3")] == [first, None, third]


def test_a_vault_put_again_is_held_anew() -> None:
    clock = Clock()
    cache = VaultCache(size=2, seconds=5, clock=clock)
    cache.put(b"1", vault(1))
    clock.now = 3.0
    cache.put(b"1", vault(1))
    clock.now = 7.0
    assert cache.get(b"1") is not None
