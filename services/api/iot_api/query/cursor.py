"""Cursors: where an answer that was given in parts goes on.

    version | flags | position | last position | received from | checksum

A cursor names a place among a vault's readings, not one in a store: what is stored meanwhile,
merged or deleted changes nothing of it. It needs no state, and no secret: who may read a vault may
read it from any place on. The checksum binds it to its question, so that one that was cut, or is
another question's or vault's, is found out.
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
    """Behind which reading to go on, and what was settled as the first part was given."""

    after: Position
    descending: bool = False
    until: Position | None = None
    """The last position of all parts, if there is one."""
    received_low: int = 0
    """Unix milliseconds; 0: not settled."""


def encode_cursor(cursor: Cursor, context: bytes) -> str:
    """A cursor as clients get it, for this question alone."""
    until = cursor.until
    flags = cursor.descending * _DESCENDING + (until is not None) * _HAS_UNTIL
    body = _FORM.pack(VERSION, flags, *cursor.after, *(until or (0, 0)), cursor.received_low)
    return urlsafe_b64encode(body + _checksum(body, context)).rstrip(b"=").decode()


def decode_cursor(text: str, context: bytes) -> Cursor:
    """What `encode_cursor` made.

    Raises:
        InvalidRequestError: it was not made for this question.
    """
    try:
        data = b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        data = b""
    body, checksum = data[: _FORM.size], data[_FORM.size :]
    if len(body) < _FORM.size or checksum != _checksum(body, context):
        raise InvalidRequestError(
            "cursor: is not one that this question's answers gave", field="cursor"
        )
    _, flags, time, number, until_time, until_number, received_low = _FORM.unpack(body)
    until = (until_time, until_number) if flags & _HAS_UNTIL else None
    return Cursor((time, number), bool(flags & _DESCENDING), until, received_low)


def _checksum(body: bytes, context: bytes) -> bytes:
    return blake2b(body + context, digest_size=_CHECKSUM_BYTES).digest()
