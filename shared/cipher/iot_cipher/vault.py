"""Vault records: each has the data key for the readings of one password, wrapped twice.

A wrapped key has these fields, with their lengths in bytes:

    format (1) | key id (4) | nonce (12) | ciphertext and tag of [nonce (12) | ciphertext and tag]

The outer wrap uses a key derived from a master key. The inner wrap uses a key derived from the
password. The lookup is derived from the password too. There are two formats (`VaultFormat`).
"""

import os
import struct
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import IntEnum
from functools import partial

from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from iot_models.errors import DecryptionError
from iot_models.settings import MAX_SCRYPT_LOG2_N

from .encryption import (
    KEY_BYTES,
    NONCE_BYTES,
    SALT_BYTES,
    OpenVault,
    decrypt,
    derive,
    encrypt,
)
from .keyring import Keyring, key_id_of
from .secrets import SecretHolder

SCRYPT_R, SCRYPT_P = 8, 1
_HEADER = struct.Struct(">BI")
_LOOKUP = b"iot-sensor lookup v2"
_WRAPPING = b"iot-sensor password key v2"

PasswordKey = Callable[[bytes, bytes, int], bytes]
"""A function like `password_key`: (password, salt, log2 of N) -> 32 bytes."""


class VaultFormat(IntEnum):
    """The first byte of a wrapped key: how lookup and inner key are derived from the password."""

    FAST_LOOKUP = 1
    """The lookup is `HMAC(pepper, password)`, so the pepper suffices to test passwords without
    scrypt. Version 0.1 wrote this format. A vault is moved to format 2 at its next use."""
    SCRYPT_LOOKUP = 2
    """Lookup and inner key are derived from one scrypt, whose salt is derived from the pepper."""


@dataclass(frozen=True, slots=True)
class VaultRecord:
    """A vault as it is stored. Opening it takes both the password and the master key."""

    vault_id: uuid.UUID
    lookup: bytes
    salt: bytes
    scrypt_log2_n: int
    wrapped_key: bytes

    @property
    def format(self) -> int:
        """The `VaultFormat`, or another number if the record is damaged."""
        return int.from_bytes(self.wrapped_key[:1], "big")

    @property
    def master_key_id(self) -> int:
        """The id of the master key that opens the outer wrap."""
        return key_id_of(self.wrapped_key)


class PasswordSecret(SecretHolder):
    """The lookup and the inner key of a password, for one vault format and one scrypt cost.

    `lookup` is not secret: it is stored in Postgres and in the names of Redis keys.
    """

    __slots__ = ("_inner_key", "format", "log2_n", "lookup")

    def __init__(
        self,
        vault_format: VaultFormat,
        lookup: bytes,
        log2_n: int,
        inner_key: Callable[[bytes, int], bytes],
    ) -> None:
        """`inner_key` computes the key of the inner wrap from a vault's salt and `log2_n`."""
        self.format = vault_format
        self.lookup = lookup
        self.log2_n = log2_n
        self._inner_key = inner_key

    def inner_key(self, salt: bytes, log2_n: int) -> bytes:
        """Return the key of the inner wrap of a vault with this salt and cost."""
        return self._inner_key(salt, log2_n)


def scrypt_secret(
    keyring: Keyring, password: bytes, log2_n: int, *, slow_key: PasswordKey | None = None
) -> PasswordSecret:
    """Return the lookup and the inner key of a password for vaults of format 2.

    The call costs one scrypt, whether or not the password has a vault. `slow_key` computes the
    scrypt; default: `password_key`.
    """
    root = (slow_key or password_key)(password, keyring.scrypt_salt(), log2_n)

    def inner_key(salt: bytes, _log2_n: int) -> bytes:
        return derive(root, salt=salt, info=_WRAPPING)

    lookup = derive(root, salt=b"", info=_LOOKUP)
    return PasswordSecret(VaultFormat.SCRYPT_LOOKUP, lookup, log2_n, inner_key)


def fast_secret(
    keyring: Keyring, password: bytes, log2_n: int, *, slow_key: PasswordKey | None = None
) -> PasswordSecret:
    """Return the lookup of a password for vaults of format 1, and a function for its inner key.

    This call costs no scrypt; each call of the result's `inner_key` costs one. `slow_key` computes
    the scrypt; default: `password_key`.
    """
    return PasswordSecret(
        VaultFormat.FAST_LOOKUP,
        keyring.lookup(password),
        log2_n,
        partial(slow_key or password_key, password),
    )


def password_key(password: bytes, salt: bytes, log2_n: int) -> bytes:
    """Compute scrypt with N = 2**log2_n, r = 8, p = 1, in 2**(log2_n + 10) bytes of memory."""
    kdf = Scrypt(salt=salt, length=KEY_BYTES, n=2**log2_n, r=SCRYPT_R, p=SCRYPT_P)
    return kdf.derive(password)


def create_vault(keyring: Keyring, secret: PasswordSecret) -> tuple[VaultRecord, OpenVault]:
    """Create a vault with a random id and data key. Return the record and the open vault."""
    vault = OpenVault(uuid.uuid4(), os.urandom(KEY_BYTES))
    return wrap_vault(keyring, vault, secret), vault


def wrap_vault(keyring: Keyring, vault: OpenVault, secret: PasswordSecret) -> VaultRecord:
    """Return a new record for an open vault, with the same id and data key."""
    salt = os.urandom(SALT_BYTES)
    associated = _associated(vault.vault_id, secret.lookup, salt, secret.log2_n)
    data_key = vault.data_key
    inner = encrypt(secret.inner_key(salt, secret.log2_n), data_key, associated)
    header = _HEADER.pack(secret.format, keyring.primary_id)
    outer = encrypt(keyring.wrap_key(keyring.primary_id), inner, header + associated)
    return VaultRecord(vault.vault_id, secret.lookup, salt, secret.log2_n, header + outer)


def open_vault(keyring: Keyring, record: VaultRecord, secret: PasswordSecret) -> OpenVault:
    """Unwrap the data key of a record and return the open vault.

    Raises:
        DecryptionError: the password is wrong, the record was changed, or its master key is not in
            the keyring.
    """
    if record.format != secret.format:
        raise DecryptionError("a vault record has an unknown format")
    # Authenticate the record before scrypt: a forged record could demand any cost.
    inner, associated = _unwrap_outer(keyring, record)
    key = secret.inner_key(record.salt, record.scrypt_log2_n)
    return OpenVault(record.vault_id, decrypt(key, inner, associated))


def is_authentic(keyring: Keyring, record: VaultRecord) -> bool:
    """Return whether a record was made with this keyring and is unchanged. Needs no password."""
    try:
        _unwrap_outer(keyring, record)
    except DecryptionError:
        return False
    return True


def rewrap_vault(keyring: Keyring, record: VaultRecord) -> VaultRecord:
    """Return the record with a new outer wrap, made with the primary master key.

    The inner wrap stays, so no password is needed.

    Raises:
        DecryptionError: the record was changed, or its master key is not in the keyring.
    """
    inner, associated = _unwrap_outer(keyring, record)
    header = _HEADER.pack(record.format, keyring.primary_id)
    outer = encrypt(keyring.wrap_key(keyring.primary_id), inner, header + associated)
    return replace(record, wrapped_key=header + outer)


def is_rewrapped(keyring: Keyring, old: VaultRecord, new: VaultRecord) -> bool:
    """Return whether two records differ only in the outer wrap, so both hold the same data key."""
    # Each inner wrap has its own random salt. So an authentic record with the vault and the salt of
    # `old` also has its inner wrap.
    return (
        old.format == new.format
        and replace(old, wrapped_key=new.wrapped_key) == new
        and is_authentic(keyring, new)
    )


def _unwrap_outer(keyring: Keyring, record: VaultRecord) -> tuple[bytes, bytes]:
    """Decrypt the outer wrap. Return the inner wrap, and the associated data to decrypt it with."""
    header, outer = record.wrapped_key[: _HEADER.size], record.wrapped_key[_HEADER.size :]
    if len(header) < _HEADER.size or len(outer) < NONCE_BYTES:
        raise DecryptionError("a vault record has an unknown format")
    # No process stores a higher cost, which would take gigabytes of memory.
    if not 0 <= record.scrypt_log2_n <= MAX_SCRYPT_LOG2_N:
        raise DecryptionError("a vault record has a scrypt cost out of range")
    associated = _associated(record.vault_id, record.lookup, record.salt, record.scrypt_log2_n)
    wrap_key = keyring.wrap_key(record.master_key_id)
    return decrypt(wrap_key, outer, header + associated), associated


def _associated(vault_id: uuid.UUID, lookup: bytes, salt: bytes, log2_n: int) -> bytes:
    return vault_id.bytes + lookup + salt + bytes([log2_n])
