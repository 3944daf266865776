"""Sealed compaction orders, which give a writer the keys of the segments to merge.

    version 1 | key id 4 | salt 16 | nonce 12 | ciphertext and tag

(The figures are lengths in bytes.) Orders and entries have different keys, derived from the same
transit key, so an order does not open as an entry, nor an entry as an order.
"""

import os
import struct

from iot_models.errors import DecryptionError

from .encryption import SALT_BYTES, TransitKeys, decrypt, derive, encrypt

FORMAT = 1
_HEADER = struct.Struct(">BI16s")
_ORDER = b"iot-sensor compaction order v1"


def seal_order(keyring: TransitKeys, order: bytes) -> bytes:
    """Seal an encoded order with the primary key."""
    header = _HEADER.pack(FORMAT, keyring.primary_id, os.urandom(SALT_BYTES))
    return header + encrypt(_key(keyring, header), order, header)


def open_order(keyring: TransitKeys, sealed: bytes) -> bytes:
    """Open a sealed order and return the encoded order.

    Raises:
        DecryptionError: the bytes were changed or cut, are not an order, or were sealed with a
            master key that is not in the keyring.
    """
    header = sealed[: _HEADER.size]
    if len(header) < _HEADER.size or header[0] != FORMAT:
        raise DecryptionError("a compaction order has an unknown format")
    return decrypt(_key(keyring, header), sealed[_HEADER.size :], header)


def _key(keyring: TransitKeys, header: bytes) -> bytes:
    _, key_id, salt = _HEADER.unpack(header)
    return derive(keyring.transit_key(key_id), salt=salt, info=_ORDER)
