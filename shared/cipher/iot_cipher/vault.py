"""A vault: the random data key that one password's readings are encrypted under, wrapped twice.

    version 1 | key id 4 | nonce 12 | ciphertext and tag of (nonce 12 | ciphertext and tag)

The outer wrap is under a key derived from a master key, the inner one under a key derived from the
password. The lookup, by which a password's vault is found, comes from the password as well, in one
of two formats (`VaultFormat`).
"""

import os
import struct
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from functools import partial

from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from iot_models.errors import DecryptionError
from iot_models.settings import MAX_SCRYPT_LOG2_N

from .aead import KEY_BYTES, NONCE_BYTES, SALT_BYTES, decrypt, derive, encrypt
from .keyring import Keyring
from .secrets import SecretHolder

SCRYPT_R, SCRYPT_P = 8, 1
_HEADER = struct.Struct(">BI")
_CHUNK = b"iot-sensor chunk v1"
_LOOKUP = b"iot-sensor lookup v2"
_WRAPPING = b"iot-sensor password key v2"

PasswordKey = Callable[[bytes, bytes, int], bytes]
"""(password, salt, log2 of N) -> 32 bytes."""


class VaultFormat(IntEnum):
    """How lookup and inner key come from a password; the first byte of a vault's wrapped key."""

    FAST_LOOKUP = 1
    """`lookup = HMAC(pepper, password)`: whoever holds the pepper tests passwords without scrypt.
    Written by version 0.1; opened, and replaced when it is used next."""
    SCRYPT_LOOKUP = 2
    """Lookup and inner key come from one scrypt whose salt is derived from the pepper."""


@dataclass(frozen=True, slots=True)
class VaultRecord:
    """A vault as it is stored. It opens with the password and the master key, not with one."""

    vault_id: uuid.UUID
    lookup: bytes
    salt: bytes
    scrypt_log2_n: int
    wrapped_key: bytes

    @property
    def format(self) -> int:
        """A `VaultFormat`, or another number in a record that is damaged."""
        return int.from_bytes(self.wrapped_key[:1], "big")

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


class PasswordSecret(SecretHolder):
    """What a password gives in one format at one cost: the lookup, and the key of the inner wrap.

    `lookup` is public: it is stored in Postgres and in the names of Redis keys.
    """

    __slots__ = ("_inner_key", "format", "log2_n", "lookup")

    def __init__(
        self,
        vault_format: VaultFormat,
        lookup: bytes,
        log2_n: int,
        inner_key: Callable[[bytes, int], bytes],
    ) -> None:
        """`inner_key` takes a vault's salt and its log2 of N."""
        self.format = vault_format
        self.lookup = lookup
        self.log2_n = log2_n
        self._inner_key = inner_key

    def inner_key(self, salt: bytes, log2_n: int) -> bytes:
        """The key of the inner wrap of the vault with this salt and cost."""
        return self._inner_key(salt, log2_n)


def scrypt_secret(
    keyring: Keyring, password: bytes, log2_n: int, *, slow_key: PasswordKey | None = None
) -> PasswordSecret:
    """The password's secret in format 2. Costs one scrypt, whether or not there is a vault."""
    root = (slow_key or password_key)(password, keyring.scrypt_salt(), log2_n)

    def inner_key(salt: bytes, _log2_n: int) -> bytes:
        return derive(root, salt=salt, info=_WRAPPING)

    lookup = derive(root, salt=b"", info=_LOOKUP)
    return PasswordSecret(VaultFormat.SCRYPT_LOOKUP, lookup, log2_n, inner_key)


def fast_secret(
    keyring: Keyring, password: bytes, log2_n: int, *, slow_key: PasswordKey | None = None
) -> PasswordSecret:
    """The password's secret in format 1. Its lookup costs no scrypt, its inner key does."""
    return PasswordSecret(
        VaultFormat.FAST_LOOKUP,
        keyring.lookup(password),
        log2_n,
        partial(slow_key or password_key, password),
    )


def password_key(password: bytes, salt: bytes, log2_n: int) -> bytes:
    """scrypt with N = 2**log2_n, r = 8, p = 1: slow on purpose, in 2**(log2_n + 10) bytes."""
    kdf = Scrypt(salt=salt, length=KEY_BYTES, n=2**log2_n, r=SCRYPT_R, p=SCRYPT_P)
    return kdf.derive(password)


def create_vault(keyring: Keyring, secret: PasswordSecret) -> tuple[VaultRecord, OpenVault]:
    """A new vault with a random id and a random data key, and the record to store."""
    vault = OpenVault(uuid.uuid4(), os.urandom(KEY_BYTES))
    return wrap_vault(keyring, vault, secret), vault


def wrap_vault(keyring: Keyring, vault: OpenVault, secret: PasswordSecret) -> VaultRecord:
    """The record of an open vault, wrapped anew: id and data key stay, so its segments do, too."""
    salt = os.urandom(SALT_BYTES)
    bound = _bound(vault.vault_id, secret.lookup, salt, secret.log2_n)
    data_key = vault._data_key  # noqa: SLF001 - of this module's own class
    inner = encrypt(secret.inner_key(salt, secret.log2_n), data_key, bound)
    header = _HEADER.pack(secret.format, keyring.primary_id)
    outer = encrypt(keyring.wrap_key(keyring.primary_id), inner, header + bound)
    return VaultRecord(vault.vault_id, secret.lookup, salt, secret.log2_n, header + outer)


def open_vault(keyring: Keyring, record: VaultRecord, secret: PasswordSecret) -> OpenVault:
    """The vault of a record, its data key unwrapped.

    Raises:
        DecryptionError: the password is another one, the record was changed, or its master key
            is not in the keyring.
    """
    if record.format != secret.format:
        raise DecryptionError("a vault record is of an unknown format")
    # Authenticated first: the cost of a record that was tampered with is never paid.
    inner, bound = _unwrap_outer(keyring, record)
    key = secret.inner_key(record.salt, record.scrypt_log2_n)
    return OpenVault(record.vault_id, decrypt(key, inner, bound))


def is_authentic(keyring: Keyring, record: VaultRecord) -> bool:
    """Whether a record was made with the keyring and not changed since. Needs no password."""
    try:
        _unwrap_outer(keyring, record)
    except DecryptionError:
        return False
    return True


def _unwrap_outer(keyring: Keyring, record: VaultRecord) -> tuple[bytes, bytes]:
    """The inner wrap, and what it is bound to."""
    header, outer = record.wrapped_key[: _HEADER.size], record.wrapped_key[_HEADER.size :]
    if len(header) < _HEADER.size or len(outer) < NONCE_BYTES:
        raise DecryptionError("a vault record is of an unknown format")
    # No process stored a higher cost: it would take gigabytes.
    if not 0 <= record.scrypt_log2_n <= MAX_SCRYPT_LOG2_N:
        raise DecryptionError("a vault record has an impossible cost")
    bound = _bound(record.vault_id, record.lookup, record.salt, record.scrypt_log2_n)
    return decrypt(keyring.wrap_key(record.master_key_id), outer, header + bound), bound


def _bound(vault_id: uuid.UUID, lookup: bytes, salt: bytes, log2_n: int) -> bytes:
    return vault_id.bytes + lookup + salt + bytes([log2_n])
