"""Sealed compaction orders: how the API hands a writer the keys of a few segments.

    version 1 | key id 4 | salt 16 | nonce 12 | ciphertext and tag

Sealed as queue entries are, with a key that is derived from the same transit key for this purpose
alone: neither opens as the other.
"""

import os
import struct

from iot_models.errors import DecryptionError

from .aead import SALT_BYTES, decrypt, derive, encrypt
from .writer_keys import TransitKeys

FORMAT = 1
_HEADER = struct.Struct(">BI16s")
_ORDER = b"iot-sensor compaction order v1"


def seal_order(keyring: TransitKeys, order: bytes) -> bytes:
    """Seal an encoded order with the primary key."""
    header = _HEADER.pack(FORMAT, keyring.primary_id, os.urandom(SALT_BYTES))
    return header + encrypt(_key(keyring, header), order, header)


def open_order(keyring: TransitKeys, sealed: bytes) -> bytes:
    """The encoded order.

    Raises:
        DecryptionError: the bytes were changed or cut, are no order, or were sealed with a master
            key that is not in the keyring.
    """
    header = sealed[: _HEADER.size]
    if len(header) < _HEADER.size or header[0] != FORMAT:
        raise DecryptionError("a compaction order is of an unknown format")
    return decrypt(_key(keyring, header), sealed[_HEADER.size :], header)


def _key(keyring: TransitKeys, header: bytes) -> bytes:
    _, key_id, salt = _HEADER.unpack(header)
    return derive(keyring.transit_key(key_id), salt=salt, info=_ORDER)
