"""Objects that hold keys show only their type, and can't be pickled or copied."""

import copy
import pickle
from collections.abc import Callable

import pytest

from iot_cipher.encryption import OpenedEntry, Opener, OpenVault, Sealer
from iot_cipher.keyring import Keyring
from iot_cipher.secrets import SecretHolder
from iot_cipher.vault import VaultRecord
from support.keys import CheckedKeys

Vault = tuple[VaultRecord, OpenVault]
HOLDERS = ["Keyring", "OpenVault", "OpenedEntry"]


@pytest.fixture
def holders(keyring: Keyring, vault: Vault) -> dict[str, SecretHolder]:
    entry = Opener(lambda: keyring).open(
        0, Sealer(CheckedKeys(lambda: keyring)).seal(0, b"a chunk key")
    )
    assert isinstance(entry, OpenedEntry)
    return {"Keyring": keyring, "OpenVault": vault[1], "OpenedEntry": entry}


@pytest.mark.parametrize("name", HOLDERS)
def test_a_key_holder_shows_only_its_type(name: str, holders: dict[str, SecretHolder]) -> None:
    holder = holders[name]
    assert repr(holder) == str(holder) == f"{holder}" == f"<{name}>"
    assert not hasattr(holder, "__dict__")  # vars() has nothing to list


@pytest.mark.parametrize("name", HOLDERS)
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_key_holder_cannot_be_pickled(
    name: str, protocol: int, holders: dict[str, SecretHolder]
) -> None:
    with pytest.raises(TypeError, match="holds keys"):
        pickle.dumps(holders[name], protocol)
    with pytest.raises(TypeError, match="holds keys"):
        pickle.dumps([{"inside": holders[name]}], protocol)


@pytest.mark.parametrize("name", HOLDERS)
@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy])
def test_a_key_holder_cannot_be_copied(
    name: str, duplicate: Callable[[object], object], holders: dict[str, SecretHolder]
) -> None:
    with pytest.raises(TypeError, match="holds keys"):
        duplicate(holders[name])


def test_a_sealer_with_a_session_cannot_be_copied(keyring: Keyring) -> None:
    sealer = Sealer(CheckedKeys(lambda: keyring))
    sealer.seal(0, b"")
    with pytest.raises(TypeError, match="holds keys"):
        copy.deepcopy(sealer)
