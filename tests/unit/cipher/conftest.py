"""Fixed keys for the tests of the cipher."""

import base64
import json
from collections.abc import Callable

import pytest

from iot_cipher.encryption import OpenVault
from iot_cipher.keyring import Keyring, parse_keyring
from iot_cipher.vault import VaultRecord, create_vault, scrypt_secret

MakeText = Callable[..., str]


def _text(primary: int = 1, keys: tuple[int, ...] = (1,), seed: int = 0) -> str:
    def key(number: int) -> str:
        return base64.b64encode(bytes((seed + 37 * number + i) % 256 for i in range(32))).decode()

    masters = {str(key_id): key(key_id) for key_id in keys}
    return json.dumps({"version": 1, "primary": primary, "keys": masters, "pepper": key(0)})


@pytest.fixture(scope="session")
def keyring_text() -> MakeText:
    """A function that returns the JSON of a keyring; each seed gives different keys."""
    return _text


@pytest.fixture(scope="session")
def keyring() -> Keyring:
    return parse_keyring(_text(primary=2, keys=(1, 2)))


@pytest.fixture(scope="session")
def vault(keyring: Keyring) -> tuple[VaultRecord, OpenVault]:
    """A vault with the password `encpassword` and the lowest scrypt cost."""
    return create_vault(keyring, scrypt_secret(keyring, b"encpassword", 10))
