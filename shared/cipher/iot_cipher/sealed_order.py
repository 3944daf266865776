"""Sealed orders of API processes to writers.

A compaction order has the keys of the segments to merge. A dead letter order asks to replay or drop
a dead letter. A sealed order has these fields, with their lengths in bytes:

    version (1) | key id (4) | salt (16) | nonce (12) | ciphertext and tag

Entries, compaction orders and dead letter orders have different keys, derived from the same transit
key. So an order does not open as an entry, or as an order of the other kind.
"""

import os
import struct
from enum import StrEnum

from iot_models.errors import DecryptionError

from .encryption import SALT_BYTES, TransitKeys, decrypt, derive, encrypt

FORMAT = 1
_HEADER = struct.Struct(">BI16s")


class OrderKind(StrEnum):
    """The kinds of orders. The values are inputs of the key derivation."""

    COMPACTION = "iot-sensor compaction order v1"
    DEAD_LETTER = "iot-sensor dead letter order v1"


def seal_order(keyring: TransitKeys, order: bytes, kind: OrderKind = OrderKind.COMPACTION) -> bytes:
    """Seal an encoded order with the primary key."""
    header = _HEADER.pack(FORMAT, keyring.primary_id, os.urandom(SALT_BYTES))
    return header + encrypt(_key(keyring, header, kind), order, header)


def open_order(
    keyring: TransitKeys, sealed: bytes, kind: OrderKind = OrderKind.COMPACTION
) -> bytes:
    """Open a sealed order and return the encoded order.

    Raises:
        DecryptionError: the bytes were changed or cut, are not an order of this kind, or need a
            transit key that `keyring` lacks.
    """
    header = sealed[: _HEADER.size]
    if len(header) < _HEADER.size or header[0] != FORMAT:
        raise DecryptionError("an order has an unknown format")
    return decrypt(_key(keyring, header, kind), sealed[_HEADER.size :], header)


def _key(keyring: TransitKeys, header: bytes, kind: OrderKind) -> bytes:
    _, key_id, salt = _HEADER.unpack(header)
    return derive(keyring.transit_key(key_id), salt=salt, info=kind.encode())
