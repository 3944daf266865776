"""A vault: the random key under which one password's readings are kept, wrapped twice."""

import os
import struct
import uuid
from collections.abc import Callable
from dataclasses import dataclass

from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from iot_models.errors import DecryptionError

from .aead import KEY_BYTES, NONCE_BYTES, SALT_BYTES, decrypt, derive, encrypt
from .keyring import Keyring
from .secrets import SecretHolder

FORMAT = 1
SCRYPT_R, SCRYPT_P = 8, 1
_HEADER = struct.Struct(">BI")
_CHUNK = b"iot-sensor chunk v1"

PasswordKey = Callable[[bytes, bytes, int], bytes]
"""(password, salt, log2 of N) -> 32 bytes."""


@dataclass(frozen=True, slots=True)
class VaultRecord:
    """What is stored of a vault. Opens with the password and the master key, with neither alone."""

    vault_id: uuid.UUID
    lookup: bytes
    salt: bytes
    scrypt_log2_n: int
    wrapped_key: bytes

    @property
    def master_key_id(self) -> int:
        """Id of the master key of the outer wrap."""
        return int.from_bytes(self.wrapped_key[1:5], "big")


class OpenVault(SecretHolder):
    """A vault whose data key is in memory."""

    __slots__ = ("_data_key", "vault_id")

    def __init__(self, vault_id: uuid.UUID, data_key: bytes) -> None:
        self.vault_id = vault_id
        self._data_key = data_key

    def chunk_key(self, salt: bytes) -> bytes:
        """The key of the segments with this salt; it gives no way back to the data key."""
        return derive(self._data_key, salt=salt, info=_CHUNK)

    def shard(self, shards: int) -> int:
        """The one of `shards` that takes this vault's readings."""
        return int.from_bytes(self.vault_id.bytes[:8], "big") % shards


def password_key(password: bytes, salt: bytes, log2_n: int) -> bytes:
    """scrypt with N = 2**log2_n, r = 8, p = 1: slow on purpose, in 2**(log2_n + 10) bytes."""
    kdf = Scrypt(salt=salt, length=KEY_BYTES, n=2**log2_n, r=SCRYPT_R, p=SCRYPT_P)
    return kdf.derive(password)


def create_vault(
    keyring: Keyring, password: bytes, log2_n: int, *, slow_key: PasswordKey = password_key
) -> tuple[VaultRecord, OpenVault]:
    """A new vault with a random id and a random data key, and the record to store."""
    vault_id, salt, data_key = uuid.uuid4(), os.urandom(SALT_BYTES), os.urandom(KEY_BYTES)
    lookup = keyring.lookup(password)
    bound = _bound(vault_id, lookup, salt, log2_n)
    inner = encrypt(slow_key(password, salt, log2_n), data_key, bound)
    header = _HEADER.pack(FORMAT, keyring.primary_id)
    outer = encrypt(keyring.wrap_key(keyring.primary_id), inner, header + bound)
    return VaultRecord(vault_id, lookup, salt, log2_n, header + outer), OpenVault(
        vault_id, data_key
    )


def open_vault(
    keyring: Keyring, record: VaultRecord, password: bytes, *, slow_key: PasswordKey = password_key
) -> OpenVault:
    """The vault of a record, its data key unwrapped.

    Raises:
        DecryptionError: the password is another one, the record was changed, or its master key
            is not in the keyring.
    """
    header, outer = record.wrapped_key[: _HEADER.size], record.wrapped_key[_HEADER.size :]
    if len(header) < _HEADER.size or header[0] != FORMAT or len(outer) < NONCE_BYTES:
        raise DecryptionError("a vault record is of an unknown format")
    if record.scrypt_log2_n not in range(256):
        raise DecryptionError("a vault record is of an unknown format")
    bound = _bound(record.vault_id, record.lookup, record.salt, record.scrypt_log2_n)
    inner = decrypt(keyring.wrap_key(record.master_key_id), outer, header + bound)
    key = slow_key(password, record.salt, record.scrypt_log2_n)
    return OpenVault(record.vault_id, decrypt(key, inner, bound))


def _bound(vault_id: uuid.UUID, lookup: bytes, salt: bytes, log2_n: int) -> bytes:
    return vault_id.bytes + lookup + salt + bytes([log2_n])
