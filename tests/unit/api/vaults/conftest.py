"""Vaults over records in memory."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from iot_api.vaults.cache import VaultCache
from iot_api.vaults.opening import Vaults
from iot_cipher.keyring import Keyring, KeyringFile, create_keyring_file
from iot_cipher.vault import PasswordKey, password_key

from .in_memory import NoGuesses, Records, restorer

MakeVaults = Callable[[VaultCache, PasswordKey], Vaults]


@pytest.fixture
def keyring(tmp_path: Path) -> Keyring:
    """A keyring."""
    create_keyring_file(tmp_path / "keyring.json")
    return KeyringFile(tmp_path / "keyring.json").current()


@pytest.fixture
def records() -> Records:
    """Return an empty set of records."""
    return Records()


@pytest.fixture
def guesses() -> NoGuesses:
    """Return counters without guesses."""
    return NoGuesses()


@pytest.fixture
def keys() -> list[bytes]:
    """Return the list of passwords for which scrypt was called."""
    return []


@pytest.fixture
def noted_key(keys: list[bytes]) -> PasswordKey:
    """A scrypt that notes its passwords in `keys`."""

    def noted(password: bytes, salt: bytes, log2_n: int) -> bytes:
        keys.append(password)
        return password_key(password, salt, log2_n)

    return noted


@pytest.fixture
def make_vaults(keyring: Keyring, records: Records, guesses: NoGuesses) -> MakeVaults:
    """A function that returns vaults over these records, none of them open."""

    def make(cache: VaultCache, slow_key: PasswordKey) -> Vaults:
        return Vaults(
            lambda: keyring,
            restorer(records, cache, keyring),
            guesses,
            scrypt_log2_n=10,
            slow_key=slow_key,
        )

    return make


@pytest.fixture
def vaults(make_vaults: MakeVaults, noted_key: PasswordKey) -> Iterator[Vaults]:
    """Vaults over these records, none of them open."""
    made = make_vaults(VaultCache(size=10, seconds=60), noted_key)
    yield made
    made.close()
