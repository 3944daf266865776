"""AES-256-GCM and HKDF as every part of the cipher uses them."""

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
    """A 32-byte key from `key`, one-way; another `salt` or `info` gives an unrelated one."""
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=salt, info=info).derive(key)


def encrypt(key: bytes, plaintext: bytes, associated: bytes) -> bytes:
    """Nonce (random) and ciphertext with its tag."""
    nonce = os.urandom(NONCE_BYTES)
    return nonce + AESGCM(key).encrypt(nonce, plaintext, associated)


def decrypt(key: bytes, message: bytes | memoryview, associated: bytes) -> bytes:
    """The plaintext of what `encrypt` made with the same key and associated data.

    Raises:
        DecryptionError: it was changed, cut, or made with another key or associated data.
    """
    try:
        return AESGCM(key).decrypt(message[:NONCE_BYTES], message[NONCE_BYTES:], associated)
    except (InvalidTag, ValueError):
        raise DecryptionError("a ciphertext could not be opened") from None
