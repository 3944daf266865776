"""AES-256-GCM and HKDF-SHA256, as the other modules of this package use them."""

import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from iot_models.errors import DecryptionError

KEY_BYTES = 32
NONCE_BYTES = 12
SALT_BYTES = 16


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
