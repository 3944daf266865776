"""A rewrapped vault record has a new outer wrap and the same data key."""

import dataclasses
import uuid
from collections.abc import Callable

import pytest

from iot_cipher.encryption import OpenVault
from iot_cipher.keyring import parse_keyring
from iot_cipher.vault import (
    VaultRecord,
    create_vault,
    is_authentic,
    is_rewrapped,
    open_vault,
    rewrap_vault,
    scrypt_secret,
    wrap_vault,
)
from iot_models.errors import DecryptionError

MakeText = Callable[..., str]


@pytest.fixture
def old(keyring_text: MakeText) -> tuple[VaultRecord, OpenVault]:
    ring = parse_keyring(keyring_text(primary=1, keys=(1,)))
    return create_vault(ring, scrypt_secret(ring, b"password", 10))


def test_a_rewrapped_vault_needs_the_new_key_only(
    keyring_text: MakeText, old: tuple[VaultRecord, OpenVault]
) -> None:
    record, vault = old
    both = parse_keyring(keyring_text(primary=2, keys=(1, 2)))
    rewrapped = rewrap_vault(both, record)
    assert (record.master_key_id, rewrapped.master_key_id) == (1, 2)
    assert is_rewrapped(both, record, rewrapped)
    new = parse_keyring(keyring_text(primary=2, keys=(2,)))
    opened = open_vault(new, rewrapped, scrypt_secret(new, b"password", 10))
    assert opened.chunk_key(bytes(16)) == vault.chunk_key(bytes(16))
    stolen = parse_keyring(keyring_text(primary=1, keys=(1,)))
    assert not is_authentic(stolen, rewrapped)
    with pytest.raises(DecryptionError):
        rewrap_vault(stolen, rewrapped)


def test_a_damaged_record_is_not_rewrapped(
    keyring_text: MakeText, old: tuple[VaultRecord, OpenVault]
) -> None:
    damaged = dataclasses.replace(old[0], vault_id=uuid.uuid4())
    with pytest.raises(DecryptionError):
        rewrap_vault(parse_keyring(keyring_text(primary=2, keys=(1, 2))), damaged)


def test_other_changes_are_not_taken_for_a_rewrap(
    keyring_text: MakeText, old: tuple[VaultRecord, OpenVault]
) -> None:
    record, vault = old
    both = parse_keyring(keyring_text(primary=2, keys=(1, 2)))
    secret = scrypt_secret(both, b"password", 10)
    wrapped_again = wrap_vault(both, vault, secret)
    another_vault, _ = create_vault(both, secret)
    rewrapped = rewrap_vault(both, record)
    forged = dataclasses.replace(rewrapped, wrapped_key=rewrapped.wrapped_key[:-1] + b"\0")
    for other in (wrapped_again, another_vault, forged):
        assert not is_rewrapped(both, record, other)
