"""Opening a vault takes the password and the master key."""

import base64
import dataclasses
import hashlib
import json
import traceback
import uuid
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iot_cipher.encryption import OpenVault, derive
from iot_cipher.keyring import Keyring, parse_keyring
from iot_cipher.vault import (
    PasswordKey,
    PasswordSecret,
    VaultFormat,
    VaultRecord,
    create_vault,
    fast_secret,
    open_vault,
    password_key,
    scrypt_secret,
    wrap_vault,
)
from iot_models.errors import DecryptionError
from iot_models.settings import MAX_SCRYPT_LOG2_N

PASSWORD = b"encpassword"
SALT = bytes(range(16))
Vault = tuple[VaultRecord, OpenVault]
MakeText = Callable[..., str]


def quick_key(password: bytes, salt: bytes, log2_n: int) -> bytes:
    return hashlib.sha256(password + salt + bytes([log2_n])).digest()


def never(ring: Keyring) -> PasswordSecret:
    """Return a secret of format 2 that fails when its inner key is derived."""

    def inner_key(_salt: bytes, _log2_n: int) -> bytes:
        raise AssertionError("the inner key was derived for a damaged record")

    return PasswordSecret(VaultFormat.SCRYPT_LOOKUP, slow(ring).lookup, 10, inner_key)


def slow(
    ring: Keyring, password: bytes = PASSWORD, slow_key: PasswordKey = password_key
) -> PasswordSecret:
    return scrypt_secret(ring, password, 10, slow_key=slow_key)


SECRETS = [scrypt_secret, fast_secret]
MakeSecret = Callable[..., PasswordSecret]


@pytest.mark.parametrize("make", SECRETS)
@given(password=st.binary(max_size=100))
def test_opening_a_vault_returns_the_same_data_key(make: MakeSecret, password: bytes) -> None:
    ring = Keyring(7, {7: bytes(range(32))}, bytes(32))
    secret = make(ring, password, 10, slow_key=quick_key)
    record, created = create_vault(ring, secret)
    opened = open_vault(ring, record, make(ring, password, 10, slow_key=quick_key))
    assert opened.vault_id == created.vault_id == record.vault_id
    assert opened.chunk_key(SALT) == created.chunk_key(SALT)
    assert (record.lookup, record.format) == (secret.lookup, secret.format)
    assert record.master_key_id == 7


def test_lookup_and_inner_key_come_from_one_scrypt(keyring: Keyring, vault: Vault) -> None:
    root = hashlib.scrypt(PASSWORD, salt=keyring.scrypt_salt(), n=2**10, r=8, p=1, dklen=32)
    record, _ = vault
    assert record.format == VaultFormat.SCRYPT_LOOKUP
    assert record.lookup == derive(root, salt=b"", info=b"iot-sensor lookup v2")
    inner = derive(root, salt=record.salt, info=b"iot-sensor password key v2")
    assert slow(keyring).inner_key(record.salt, 10) == inner
    calls: list[bytes] = []

    def counted(password: bytes, salt: bytes, log2_n: int) -> bytes:
        calls.append(password)
        return password_key(password, salt, log2_n)

    assert open_vault(keyring, record, slow(keyring, slow_key=counted))
    assert calls == [PASSWORD]


def test_a_rewrapped_vault_keeps_its_id_and_data_key(keyring: Keyring) -> None:
    fast = fast_secret(keyring, PASSWORD, 10)
    old, vault = create_vault(keyring, fast)
    new = wrap_vault(keyring, vault, slow(keyring))
    assert (old.format, new.format) == (VaultFormat.FAST_LOOKUP, VaultFormat.SCRYPT_LOOKUP)
    assert new.vault_id == old.vault_id
    assert not {new.lookup, new.salt, new.wrapped_key} & {old.lookup, old.salt, old.wrapped_key}
    assert open_vault(keyring, new, slow(keyring)).chunk_key(SALT) == vault.chunk_key(SALT)
    for record, secret in ((new, fast), (old, slow(keyring))):
        with pytest.raises(DecryptionError, match="unknown format"):
            open_vault(keyring, record, secret)


def test_a_vault_opens_with_scrypt(keyring: Keyring, vault: Vault) -> None:
    record, created = vault
    opened = open_vault(keyring, record, slow(keyring))
    assert opened.chunk_key(SALT) == created.chunk_key(SALT)
    assert record.scrypt_log2_n == 10


@pytest.mark.parametrize("log2_n", [10, 11])
def test_password_key_is_scrypt(log2_n: int) -> None:
    expected = hashlib.scrypt(PASSWORD, salt=SALT, n=2**log2_n, r=8, p=1, dklen=32)
    assert password_key(PASSWORD, SALT, log2_n) == expected


@pytest.mark.parametrize("password", [b"", b"encpasswor", b"encpassword ", b"Encpassword"])
def test_another_password_does_not_open_the_vault(
    keyring: Keyring, vault: Vault, password: bytes
) -> None:
    with pytest.raises(DecryptionError):
        open_vault(keyring, vault[0], slow(keyring, password))


def test_the_password_alone_does_not_open_the_vault(vault: Vault, keyring_text: MakeText) -> None:
    other_keys = parse_keyring(keyring_text(primary=2, keys=(1, 2), seed=99))
    with pytest.raises(DecryptionError):
        open_vault(other_keys, vault[0], never(other_keys))


def test_a_vault_of_a_retired_master_key_does_not_open(
    vault: Vault, keyring_text: MakeText
) -> None:
    retired = parse_keyring(keyring_text(primary=1, keys=(1,)))
    with pytest.raises(DecryptionError, match="no master key 2"):
        open_vault(retired, vault[0], never(retired))


def test_a_vault_of_an_older_master_key_opens(vault: Vault, keyring_text: MakeText) -> None:
    rotated = parse_keyring(keyring_text(primary=3, keys=(1, 2, 3)))
    assert open_vault(rotated, vault[0], slow(rotated)).chunk_key(SALT) == vault[1].chunk_key(SALT)


def flipped(data: bytes) -> list[bytes]:
    return [
        data[:at] + bytes([data[at] ^ bit]) + data[at + 1 :]
        for at in range(len(data))
        for bit in (1, 128)
    ]


def changed_records(record: VaultRecord) -> list[VaultRecord]:
    wrapped = record.wrapped_key
    changes: list[dict[str, Any]] = [
        *({"wrapped_key": other} for other in flipped(wrapped)),
        *({"wrapped_key": wrapped[:length]} for length in range(len(wrapped))),
        {"wrapped_key": wrapped + b"\0"},
        *({"lookup": other} for other in flipped(record.lookup)),
        *({"salt": other} for other in flipped(record.salt)),
        *({"vault_id": uuid.UUID(bytes=other)} for other in flipped(record.vault_id.bytes)),
        *({"scrypt_log2_n": other} for other in (-1, 0, 9, 11, 255, 256, 266, 2**31)),
        {"lookup": record.lookup[:-1]},
        {"salt": record.salt[:-1]},
    ]
    return [dataclasses.replace(record, **change) for change in changes]


def test_a_changed_record_is_detected_before_scrypt(keyring: Keyring, vault: Vault) -> None:
    for record in changed_records(vault[0]):
        with pytest.raises(DecryptionError):
            open_vault(keyring, record, never(keyring))


def test_a_byte_moved_between_columns_is_detected(keyring: Keyring, vault: Vault) -> None:
    # The concatenation of lookup and salt stays the same.
    record = vault[0]
    moved = dataclasses.replace(
        record, lookup=record.lookup + record.salt[:1], salt=record.salt[1:]
    )
    with pytest.raises(DecryptionError):
        open_vault(keyring, moved, slow(keyring))


def test_the_wrapped_key_of_another_vault_is_detected(keyring: Keyring, vault: Vault) -> None:
    other, _ = create_vault(keyring, slow(keyring, slow_key=quick_key))
    swapped = dataclasses.replace(vault[0], wrapped_key=other.wrapped_key)
    with pytest.raises(DecryptionError):
        open_vault(keyring, swapped, never(keyring))


def test_failures_carry_no_key(keyring: Keyring, vault: Vault, keyring_text: MakeText) -> None:
    text = json.loads(keyring_text(primary=2, keys=(1, 2)))
    keys = [base64.b64decode(key) for key in (*text["keys"].values(), text["pepper"])]
    keys += [keyring.wrap_key(2), password_key(PASSWORD, vault[0].salt, 10)]
    told = []
    for record, password in ((vault[0], b"wrong horse"), (changed_records(vault[0])[0], PASSWORD)):
        with pytest.raises(DecryptionError) as caught:
            open_vault(keyring, record, slow(keyring, password))
        assert caught.value.__cause__ is None
        assert caught.value.__context__ is None or caught.value.__suppress_context__
        told.append("".join(traceback.format_exception(caught.value)) + repr(caught.value.details))
    for key in [*keys, PASSWORD, b"wrong horse"]:
        for form in (repr(key)[2:-1], key.hex(), base64.b64encode(key).decode()):
            assert not any(form in text for text in told)


def test_random_values_never_repeat(keyring: Keyring) -> None:
    made = [create_vault(keyring, slow(keyring, slow_key=quick_key)) for _ in range(300)]
    assert len({record.vault_id for record, _ in made}) == 300
    assert len({record.salt for record, _ in made}) == 300
    assert len({record.wrapped_key[5:17] for record, _ in made}) == 300
    assert len({opened.chunk_key(SALT) for _, opened in made}) == 300


def test_the_stored_record_holds_no_key(keyring: Keyring) -> None:
    seen: list[bytes] = []

    def watched(password: bytes, salt: bytes, log2_n: int) -> bytes:
        seen.append(quick_key(password, salt, log2_n))
        return seen[-1]

    record, _ = create_vault(keyring, slow(keyring, slow_key=watched))
    stored = record.wrapped_key + record.salt + record.lookup
    assert seen
    assert not any(key in stored for key in (*seen, keyring.wrap_key(2), PASSWORD))


def test_a_chunk_key_reveals_no_other_key() -> None:
    data_key = bytes(range(32))
    opened = OpenVault(uuid.UUID(int=1), data_key)
    salts = [bytes(15) + bytes([number]) for number in range(256)]
    keys = [opened.chunk_key(salt) for salt in salts]
    assert keys[0] == derive(data_key, salt=salts[0], info=b"iot-sensor chunk v1")
    assert len({*keys, data_key}) == 257
    # Unrelated keys differ in about half of their 256 bits.
    for one, other in [*pairwise(keys), (keys[0], data_key)]:
        difference = int.from_bytes(one, "big") ^ int.from_bytes(other, "big")
        assert 80 < difference.bit_count() < 176
    # A chunk key used as data key derives none of the other chunk keys.
    thief = OpenVault(uuid.UUID(int=1), keys[0])
    assert not {thief.chunk_key(salt) for salt in salts} & set(keys)


@given(st.uuids(), st.integers(1, 256))
def test_the_shard_is_below_the_number_of_shards(vault_id: uuid.UUID, shards: int) -> None:
    assert 0 <= OpenVault(vault_id, bytes(32)).shard(shards) < shards


def test_shards_are_used_evenly() -> None:
    counts = [0] * 8
    for number in range(4000):
        name = uuid.UUID(bytes=hashlib.sha256(b"%d" % number).digest()[:16])
        counts[OpenVault(name, bytes(32)).shard(8)] += 1
    assert min(counts) > 400


@pytest.mark.parametrize("cost", [MAX_SCRYPT_LOG2_N + 1, 31, 255])
def test_an_excessive_cost_is_refused_before_scrypt(keyring: Keyring, cost: int) -> None:
    """A holder of the keyring can store such a record, even in Redis."""
    secret = fast_secret(keyring, PASSWORD, cost, slow_key=quick_key)
    record, _ = create_vault(keyring, secret)

    def pay(*_: object) -> bytes:
        raise AssertionError("scrypt was called")

    with pytest.raises(DecryptionError, match="cost out of range"):
        open_vault(keyring, record, fast_secret(keyring, PASSWORD, 10, slow_key=pay))


def test_the_greatest_cost_is_accepted(keyring: Keyring) -> None:
    secret = fast_secret(keyring, PASSWORD, MAX_SCRYPT_LOG2_N, slow_key=quick_key)
    record, vault = create_vault(keyring, secret)
    assert open_vault(keyring, record, secret).vault_id == vault.vault_id
