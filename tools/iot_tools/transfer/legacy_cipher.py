"""The cipher of the old program's database. Only the import and export of such databases use it.

AES-256-CTR without authentication. The key is the first 32 hex digits of SHA-512(password), as 32
bytes of ASCII. The first counter block is the number in the last 16 decimal digits of the
interrogator timestamp. The text has PKCS#7 padding and is stored in base64.
"""

import base64
import binascii
import hashlib
from contextlib import suppress

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.padding import PKCS7

_KEY_DIGITS = 32
_COUNTER_DIGITS = 16
_BLOCK_BYTES = 16


class LegacyCipher:
    """Encrypts and decrypts values of the old program's database under one password."""

    def __init__(self, password: str) -> None:
        key = hashlib.sha512(password.encode()).hexdigest()[:_KEY_DIGITS]
        self._aes = algorithms.AES(key.encode())

    def encrypt(self, text: bytes, interrogator: int) -> bytes:
        """Encrypt a text as the old program does. `interrogator` is the row's timestamp."""
        padder = PKCS7(8 * _BLOCK_BYTES).padder()
        padded = padder.update(text) + padder.finalize()
        return base64.b64encode(self._apply(padded, interrogator))

    def decrypt(self, stored: bytes | str, interrogator: int) -> bytes | None:
        """Decrypt a stored value. Return None if it is invalid under this password.

        Only the padding can be checked, and it is valid by chance for about one in 256 wrong
        passwords. So the caller must check the text, too.
        """
        with suppress(binascii.Error, ValueError):
            encrypted = base64.b64decode(stored, validate=True)
            unpadder = PKCS7(8 * _BLOCK_BYTES).unpadder()
            return unpadder.update(self._apply(encrypted, interrogator)) + unpadder.finalize()
        return None

    def _apply(self, data: bytes, interrogator: int) -> bytes:
        # CTR: encryption and decryption are the same. The old program's library counts from 0 for a
        # negative timestamp.
        counter = max(0, int(str(interrogator)[-_COUNTER_DIGITS:]))
        mode = modes.CTR(counter.to_bytes(_BLOCK_BYTES))
        context = Cipher(self._aes, mode).encryptor()
        return context.update(data) + context.finalize()
