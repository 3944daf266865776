"""Encrypted segments as they are stored in Postgres and in the hot window.

    version 1 | salt 16 | nonce 12 | ciphertext and tag

The salt names the key: with the vault's data key it gives the chunk key. Bound to the ciphertext
are the vault's id and the segment's bounds, so a segment can't be moved, nor its bounds changed.
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
    """A segment as it is stored: whose it is, what is known of it, and its ciphertext."""

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
    """The encoded segment.

    Raises:
        DecryptionError: payload or bounds were changed, or the segment is another vault's.
    """
    chunk_key = vault.chunk_key(salt_of(payload))
    return decrypt_with_chunk_key(vault.vault_id, chunk_key, bounds, payload)


def decrypt_with_chunk_key(
    vault_id: uuid.UUID, chunk_key: bytes, bounds: SegmentBounds, payload: bytes | bytearray
) -> bytes:
    """As `decrypt_segment`, for who has been handed the key of this segment only."""
    # A view: a copy of a large payload would double its memory.
    head, message = bytes(payload[: 1 + SALT_BYTES]), memoryview(payload)[1 + SALT_BYTES :]
    if len(head) < 1 + SALT_BYTES or head[:1] != FORMAT:
        raise DecryptionError("a segment is of an unknown format")
    try:
        associated = _associated(head, vault_id, bounds)
    except struct.error:  # no segment was ever made with such bounds
        raise DecryptionError("a segment's bounds are out of range") from None
    return decrypt(chunk_key, message, associated)


def salt_of(payload: bytes | bytearray) -> bytes:
    """The salt that names the key of an encrypted segment."""
    return bytes(payload[1 : 1 + SALT_BYTES])


def _associated(head: bytes, vault_id: uuid.UUID, bounds: SegmentBounds) -> bytes:
    return head + vault_id.bytes + bounds.to_bytes()
