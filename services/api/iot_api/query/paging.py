"""Pages of a read: `limit`, `cursor` and `order`.

A cursor is the position at which the next page continues:

    version | flags | after | until | received_low | checksum

The class `Cursor` describes `after`, `until` and `received_low`. A cursor names a position among
the readings of a vault, not a row of a store. So it stays valid when readings are stored, merged or
deleted between two pages. The server keeps no state for it. A cursor is no secret: a client that
may read a vault may read it from any position. The checksum binds the cursor to its context (call,
range and vault), and detects a truncated cursor.
"""

import binascii
import re
import struct
from base64 import b64decode, urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b

from iot_models.errors import InvalidRequestError
from iot_models.reading import IDS, INT64_MAX
from iot_stores.months import END_MS

from .pausable_read import Cursor, Page

VERSION = 1
_FORM = struct.Struct("<BBqqqqq")
_CHECKSUM_BYTES = 8
_DESCENDING, _HAS_UNTIL = 1, 2


def encode_cursor(cursor: Cursor, context: bytes) -> str:
    """Encode a cursor for a response. The cursor is valid only in the same `context`."""
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
    cursor = _unpacked(body) if checksum == _checksum(body, context) else None
    if cursor is None:
        raise InvalidRequestError(
            "cursor: must be from an answer to the same call, with the same range and password",
            field="cursor",
        )
    return cursor


def _unpacked(body: bytes) -> Cursor | None:
    # A valid checksum proves nothing: anybody who knows the vault's id can compute it.
    version, flags, time, number, until_time, until_number, received_low = _FORM.unpack(body)
    # A turn that found nothing ends directly before or behind an id (`Order.just_before`).
    has_valid_ids = all(-1 <= each <= IDS.stop for each in (number, until_number))
    if version != VERSION or not has_valid_ids or not 0 <= received_low < END_MS:
        return None
    until = (until_time, until_number) if flags & _HAS_UNTIL else None
    return Cursor((time, number), bool(flags & _DESCENDING), until, received_low)


def _checksum(body: bytes, context: bytes) -> bytes:
    return blake2b(body + context, digest_size=_CHECKSUM_BYTES).digest()


_ORDERS = {"asc": False, "desc": True}


@dataclass(frozen=True, slots=True)
class Paging:
    """The paging arguments of a request. `cursor` stays encoded until the vault is known."""

    limit: int | None
    order: str | None
    cursor: str | None

    def refuse_cursor(self) -> None:
        """Refuse a cursor in a request whose password has no vault.

        An empty page without a cursor would look like the end of a complete read.

        Raises:
            InvalidRequestError: there is a cursor.
        """
        if self.cursor is not None:
            raise InvalidRequestError(
                "cursor: no vault has this password; either the first page was requested with "
                "another password, or the vault's password was changed since, or the vault was "
                "erased",
                field="cursor",
            )

    def page(self, context: bytes) -> Page:
        """Return the requested page. `context` names the call, its range and the vault.

        Raises:
            InvalidRequestError: the cursor belongs to another context, or to the other order.
        """
        if self.cursor is None:
            return Page(self.limit, _ORDERS[self.order or "asc"])
        cursor = decode_cursor(self.cursor, context)
        if self.order is not None and _ORDERS[self.order] != cursor.descending:
            raise InvalidRequestError(
                "cursor: is from a read in the other order; omit `order`, which the cursor has",
                field="cursor",
            )
        return Page(self.limit, cursor.descending, cursor)


def parse_paging(arguments: Mapping[str, str]) -> Paging:
    """Parse `limit`, `order` and `cursor`. Other arguments are ignored, as in the old server.

    Raises:
        InvalidRequestError: an argument is malformed.
    """
    limit, order = arguments.get("limit"), arguments.get("order")
    if order is not None and order not in _ORDERS:
        raise InvalidRequestError("order: must be asc or desc", field="order")
    most = None if limit is None else parse_positive("limit", limit)
    return Paging(most, order, arguments.get("cursor"))


def parse_positive(field: str, text: str) -> int:
    """Parse an argument that is an integer of at least 1.

    Raises:
        InvalidRequestError: the argument is anything else, or beyond 64 bits.
    """
    if not re.fullmatch("0*[1-9][0-9]*", text):
        raise InvalidRequestError(f"{field}: must be an integer of at least 1", field=field)
    digits = text.lstrip("0")
    if len(digits) > 19 or int(digits) >= INT64_MAX:
        raise InvalidRequestError(f"{field}: is beyond 64 bits", field=field)
    return int(digits)
