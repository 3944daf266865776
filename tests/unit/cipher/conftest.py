"""Keys that every test of the cipher may use; fixed, for they guard nothing."""

import base64
import json
from collections.abc import Callable

import pytest

from iot_cipher.keyring import Keyring, parse_keyring
from iot_cipher.vault import OpenVault, VaultRecord, create_vault, scrypt_secret

MakeText = Callable[..., str]


def _text(primary: int = 1, keys: tuple[int, ...] = (1,), seed: int = 0) -> str:
    def key(number: int) -> str:
        return base64.b64encode(bytes((seed + 37 * number + i) % 256 for i in range(32))).decode()

    masters = {str(key_id): key(key_id) for key_id in keys}
    return json.dumps({"version": 1, "primary": primary, "keys": masters, "pepper": key(0)})


@pytest.fixture(scope="session")
def keyring_text() -> MakeText:
    """Makes the JSON of a keyring; another seed gives other keys under the same ids."""
    return _text


@pytest.fixture(scope="session")
def keyring() -> Keyring:
    return parse_keyring(_text(primary=2, keys=(1, 2)))


@pytest.fixture(scope="session")
def vault(keyring: Keyring) -> tuple[VaultRecord, OpenVault]:
    """A vault under `encpassword`, its scrypt the cheapest there is."""
    return create_vault(keyring, scrypt_secret(keyring, b"encpassword", 10))
