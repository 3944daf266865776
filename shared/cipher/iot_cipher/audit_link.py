"""Links of the audit log's hash chain.

    link = version 1 (1 byte) | key id (4) | HMAC-SHA-256 (32)

The HMAC covers the head of the link, the previous link, and the record with its place. Its key is
derived from the audit key of that id. All numbers are big-endian.
"""

import hmac
import struct
from typing import NamedTuple

from iot_models.errors import DecryptionError

from .aead import derive
from .writer_keys import AuditKeys

FORMAT = 1
_INFO = b"iot-sensor audit chain v1"
_HEAD = struct.Struct(">BI")
_PLACE = struct.Struct(">qq")
LINK_BYTES = _HEAD.size + 32
BEFORE_FIRST = bytes(LINK_BYTES)
"""Stands for the previous link of the first record."""


class ChainedRecord(NamedTuple):
    """What a link covers, besides the previous link. Only the last field has no fixed length."""

    sequence: int
    """Place in the chain: 1, 2, ..."""
    record_id: int
    at: bytes
    """8 bytes: microseconds since 2000-01-01 UTC, as Postgres sends a `timestamptz`."""
    sealed: bytes


def make_link(keys: AuditKeys, previous: bytes, record: ChainedRecord) -> bytes:
    """Return the link of a record that follows the link `previous`."""
    head = _HEAD.pack(FORMAT, keys.primary_id)
    return head + _code(keys.audit_key(keys.primary_id), head, previous, record)


def link_matches(keys: AuditKeys, link: bytes, previous: bytes, record: ChainedRecord) -> bool:
    """Return whether a link belongs to this record behind the link `previous`.

    Raises:
        DecryptionError: the key that the link names is unknown.
    """
    if len(link) != LINK_BYTES or link[0] != FORMAT:
        return False
    head = link[: _HEAD.size]
    key = keys.audit_key(_HEAD.unpack(head)[1])
    return hmac.compare_digest(link[_HEAD.size :], _code(key, head, previous, record))


def _code(audit_key: bytes, head: bytes, previous: bytes, record: ChainedRecord) -> bytes:
    if len(previous) != LINK_BYTES or len(record.at) != 8:
        raise DecryptionError("the previous link or the time of an audit record has a wrong length")
    place = _PLACE.pack(record.sequence, record.record_id)
    message = head + previous + place + record.at + record.sealed
    return hmac.digest(derive(audit_key, salt=b"", info=_INFO), message, "sha256")
