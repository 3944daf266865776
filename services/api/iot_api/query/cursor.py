"""Cursors: the position at which the next page continues.

    version | flags | position | last position | received from | checksum

A cursor names a position among the readings of a vault, not a row of a store, so it stays valid
when readings are stored, merged or deleted between two pages. The server keeps no state for it. A
cursor is no secret: a client that may read a vault may read it from any position. The checksum
binds the cursor to its context (endpoint and vault), and detects a truncated cursor.
"""

import binascii
import struct
from base64 import b64decode, urlsafe_b64encode
from dataclasses import dataclass
from hashlib import blake2b

from iot_models.errors import InvalidRequestError
from iot_stores.interval_index import Position

VERSION = 1
_FORM = struct.Struct("<BBqqqqq")
_CHECKSUM_BYTES = 8
_DESCENDING, _HAS_UNTIL = 1, 2


@dataclass(frozen=True, slots=True)
class Cursor:
    """The position behind the last reading of a page, and what the first page fixed."""

    after: Position
    descending: bool = False
    until: Position | None = None
    """The last position of the last page, if the first page fixed it."""
    received_low: int = 0
    """Begin of the window of receipt, in Unix milliseconds; 0: no window."""


def encode_cursor(cursor: Cursor, context: bytes) -> str:
    """Encode a cursor for a response. It is valid in this context only."""
    until = cursor.until
    flags = cursor.descending * _DESCENDING + (until is not None) * _HAS_UNTIL
    body = _FORM.pack(VERSION, flags, *cursor.after, *(until or (0, 0)), cursor.received_low)
    return urlsafe_b64encode(body + _checksum(body, context)).rstrip(b"=").decode()


def decode_cursor(text: str, context: bytes) -> Cursor:
    """Decode a cursor that `encode_cursor` encoded.

    Raises:
        InvalidRequestError: the cursor is malformed, or was encoded in another context.
    """
    try:
        data = b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        data = b""
    body, checksum = data[: _FORM.size], data[_FORM.size :]
    if len(body) < _FORM.size or checksum != _checksum(body, context):
        raise InvalidRequestError(
            "cursor: was not returned by this endpoint for this password", field="cursor"
        )
    _, flags, time, number, until_time, until_number, received_low = _FORM.unpack(body)
    until = (until_time, until_number) if flags & _HAS_UNTIL else None
    return Cursor((time, number), bool(flags & _DESCENDING), until, received_low)


def _checksum(body: bytes, context: bytes) -> bytes:
    return blake2b(body + context, digest_size=_CHECKSUM_BYTES).digest()
