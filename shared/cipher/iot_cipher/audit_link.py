"""Links of the audit log's hash chain. A link has these fields, with their lengths in bytes:

    format (1) | key id (4) | HMAC-SHA-256 (32)

The HMAC covers format and key id, the previous link, and the record: its position in the chain,
its id, its time and its text. The key of the HMAC is the chain key with this key id. All numbers
are big-endian. The link covers the text, not the sealed bytes, so it stays valid when a rotation of
the master keys seals the record again.

New links have format 2. Links of format 1 cover the sealed bytes, so a rotation replaces these
links before it seals the records again (`iot_stores.audit_reseal`).
"""

import hmac
import struct
from typing import NamedTuple

from iot_models.errors import DecryptionError

from .chain_keys import LINK_BYTES
from .keyring import key_id_of
from .writer_keys import AuditKeys

FORMAT = 2
SEALED_FORMAT = 1
"""The format of old links. Such a link covers the sealed bytes of the record."""
UNREADABLE_MARK = b"\xff"
"""Stands before the bytes of a record that can't be decrypted. No text in UTF-8 begins with it."""
_HEAD = struct.Struct(">BI")
_POSITION = struct.Struct(">qq")


class ChainedRecord(NamedTuple):
    """What the link of an audit record covers, besides the previous link."""

    sequence: int
    """Position in the chain: 1, 2, ..."""
    record_id: int
    at: bytes
    """8 bytes: microseconds since 2000-01-01 UTC, as Postgres sends a `timestamptz`."""
    content: bytes
    """For a link of format 2: the text of the record in UTF-8, or `UNREADABLE_MARK` and the sealed
    bytes if the record can't be decrypted. For a link of format 1: the sealed bytes.
    """


def make_link(keys: AuditKeys, previous: bytes, record: ChainedRecord) -> bytes:
    """Return the link of `record`. `previous` is the link of the record before it."""
    head = _HEAD.pack(FORMAT, keys.primary_id)
    return head + _code(keys.chain_key(keys.primary_id), head, previous, record)


def link_matches(keys: AuditKeys, link: bytes, previous: bytes, record: ChainedRecord) -> bool:
    """Return whether `link` is valid for `record`. `previous` is the link of the record before it.

    Raises:
        DecryptionError: `link` names an unknown key, or `previous` or the bytes of `record.at` have
            the wrong length.
    """
    if len(link) != LINK_BYTES or link[0] not in {FORMAT, SEALED_FORMAT}:
        return False
    head = link[: _HEAD.size]
    key = keys.chain_key(key_id_of(link))
    return hmac.compare_digest(link[_HEAD.size :], _code(key, head, previous, record))


def covers_sealed_bytes(link: bytes) -> bool:
    """Return whether a link has format 1, which covers the sealed bytes of the record."""
    return link[:1] == bytes([SEALED_FORMAT])


def _code(chain_key: bytes, head: bytes, previous: bytes, record: ChainedRecord) -> bytes:
    if len(previous) != LINK_BYTES or len(record.at) != 8:
        raise DecryptionError(
            f"wrong length in the audit log: the previous link must have {LINK_BYTES} bytes, and "
            "the record's time 8 bytes"
        )
    position = _POSITION.pack(record.sequence, record.record_id)
    # Only the last part has no fixed length, so different records never give the same message.
    message = head + previous + position + record.at + record.content
    return hmac.digest(chain_key, message, "sha256")
