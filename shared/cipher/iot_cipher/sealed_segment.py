"""Encrypted segments as they are stored in Postgres and in the hot window.

    version 1 | salt 16 | nonce 12 | ciphertext and tag

(The figures are lengths in bytes.) The chunk key is derived from the vault's data key and the salt.
The vault's id and the segment's bounds are authenticated with the ciphertext. So nobody can move a
segment to another vault or change its bounds unnoticed.
"""

import struct
import uuid
from dataclasses import dataclass

from iot_models.errors import DecryptionError
from iot_models.segment import SegmentBounds

from .aead import SALT_BYTES, decrypt, encrypt
from .vault import OpenVault

FORMAT = b"\1"


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
    head = FORMAT + salt
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
    if len(head) < 1 + SALT_BYTES or head[:1] != FORMAT:
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
