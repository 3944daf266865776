"""The encryption of readings: AES-256-GCM and HKDF-SHA256, open vaults, and sealed segments.

A segment as it is stored in Postgres and in the hot window:

    version 1 | salt 16 | nonce 12 | ciphertext and tag

(The figures are lengths in bytes.) The chunk key is derived from the vault's data key and the salt.
The vault's id and the segment's bounds are authenticated with the ciphertext. So nobody can move a
segment to another vault or change its bounds unnoticed.
"""

import hmac
import os
import struct
import uuid
from array import array
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from iot_models.errors import DecryptionError
from iot_models.segment import SegmentBounds

from .secrets import SecretHolder

KEY_BYTES = 32
NONCE_BYTES = 12
SALT_BYTES = 16
SEGMENT_FORMAT = b"\1"
_CHUNK = b"iot-sensor chunk v1"
_FINGERPRINT = b"iot-sensor request fingerprint v1"


def derive(key: bytes, *, salt: bytes, info: bytes) -> bytes:
    """Derive a 32-byte key one-way. Keys of different `salt` or `info` are unrelated."""
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=salt, info=info).derive(key)


def encrypt(key: bytes, plaintext: bytes, associated: bytes) -> bytes:
    """Encrypt, and return the random nonce, the ciphertext and the tag.

    A random nonce is safe for about 2**32 messages under one key (NIST SP 800-38D, 8.3).
    """
    nonce = os.urandom(NONCE_BYTES)
    return nonce + AESGCM(key).encrypt(nonce, plaintext, associated)


def decrypt(key: bytes, message: bytes | memoryview, associated: bytes) -> bytes:
    """Decrypt the result of `encrypt`.

    Raises:
        DecryptionError: the message was changed or cut, or was encrypted with another key or other
            associated data.
    """
    try:
        return AESGCM(key).decrypt(message[:NONCE_BYTES], message[NONCE_BYTES:], associated)
    except (InvalidTag, ValueError):
        # One message for all causes: a reader learns nothing about the key.
        raise DecryptionError("a ciphertext could not be opened") from None


class OpenVault(SecretHolder):
    """An open vault: its data key is in memory."""

    __slots__ = ("_data_key", "vault_id")

    def __init__(self, vault_id: uuid.UUID, data_key: bytes) -> None:
        self.vault_id = vault_id
        self._data_key = data_key

    def chunk_key(self, salt: bytes) -> bytes:
        """Derive the key of the segments with this salt, one-way."""
        return derive(self._data_key, salt=salt, info=_CHUNK)

    def fingerprint(self, *parts: "bytes | array[int]") -> bytes:
        """Return an HMAC of `parts`, 32 bytes. Only an open vault can compute it."""
        key = derive(self._data_key, salt=b"", info=_FINGERPRINT)
        mac = hmac.new(key, digestmod="sha256")
        for part in parts:
            mac.update(part)
        return mac.digest()

    def shard(self, shards: int) -> int:
        """Return the shard of this vault's readings, out of `shards`.

        It depends on the id alone, so all processes choose the same shard.
        """
        return int.from_bytes(self.vault_id.bytes[:8], "big") % shards


@dataclass(frozen=True, slots=True)
class SealedSegment:
    """A segment as it is stored: its vault, its bounds in clear, and its ciphertext."""

    vault_id: uuid.UUID
    bounds: SegmentBounds
    payload: bytes


def encrypt_segment(
    vault_id: uuid.UUID, salt: bytes, chunk_key: bytes, bounds: SegmentBounds, content: bytes
) -> bytes:
    """Encrypt an encoded segment with the chunk key that belongs to `salt`."""
    head = SEGMENT_FORMAT + salt
    return head + encrypt(chunk_key, content, _associated(head, vault_id, bounds))


def decrypt_segment(vault: OpenVault, bounds: SegmentBounds, payload: bytes | bytearray) -> bytes:
    """Decrypt a segment and return the encoded segment.

    Raises:
        DecryptionError: payload or bounds were changed, or the segment is of another vault.
    """
    chunk_key = vault.chunk_key(salt_of(payload))
    return decrypt_with_chunk_key(vault.vault_id, chunk_key, bounds, payload)


def decrypt_with_chunk_key(
    vault_id: uuid.UUID, chunk_key: bytes, bounds: SegmentBounds, payload: bytes | bytearray
) -> bytes:
    """Decrypt a segment with its chunk key alone. Writers do not have data keys."""
    # A memoryview, because a copy of a large payload would double the memory.
    head, message = bytes(payload[: 1 + SALT_BYTES]), memoryview(payload)[1 + SALT_BYTES :]
    if len(head) < 1 + SALT_BYTES or head[:1] != SEGMENT_FORMAT:
        raise DecryptionError("a segment has an unknown format")
    try:
        associated = _associated(head, vault_id, bounds)
    except struct.error:  # no process stores such bounds
        raise DecryptionError("a segment's bounds are out of range") from None
    return decrypt(chunk_key, message, associated)


def salt_of(payload: bytes | bytearray) -> bytes:
    """Return the salt from which the key of an encrypted segment is derived."""
    return bytes(payload[1 : 1 + SALT_BYTES])


def _associated(head: bytes, vault_id: uuid.UUID, bounds: SegmentBounds) -> bytes:
    return head + vault_id.bytes + bounds.to_bytes()
