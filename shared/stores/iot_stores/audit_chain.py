"""The hash chain of the audit log: writers append a link for each new record.

A record is inserted without a link, and a trigger notes its id in `audit_pending`. A writer makes
the link later, in another transaction, so that transactions that insert records do not wait for one
another.
"""

from collections.abc import Callable, Iterator
from typing import cast

from iot_cipher.audit_link import (
    UNREADABLE_MARK,
    ChainedRecord,
    covers_sealed_bytes,
    make_link,
)
from iot_cipher.chain_keys import BEFORE_FIRST, LINK_BYTES
from iot_cipher.writer_keys import AuditKeys
from iot_models.errors import DecryptionError, FormatError

from .audit import open_record
from .audit_head import AuditHead
from .postgres import Connection, transaction

BATCH = 1000
"""Maximum number of records that one transaction chains."""

LOCK_KEY = 0x696F7461756469
_LOCK = "SELECT pg_try_advisory_xact_lock(%s)"
_PENDING = """
    SELECT id, timestamptz_send(at), sealed FROM audit_unchained
    WHERE substring(sealed FROM 2 FOR 4) = ANY(%s) ORDER BY id LIMIT %s
"""
"""Selects records that have no link and whose audit key this writer has loaded. Another writer, or
this one later, chains the others."""
_HEAD = "SELECT sequence, link FROM audit_chain ORDER BY sequence DESC LIMIT 1"
_LINK = "SELECT link FROM audit_chain WHERE sequence = %s"
_INSERT = """
    INSERT INTO audit_chain (sequence, record_id, link)
    SELECT * FROM unnest(%s::bigint[], %s::bigint[], %s::bytea[])
"""
_DONE = "DELETE FROM audit_pending WHERE record_id = ANY(%s)"


class AuditChain:
    """Appends links to the audit log's hash chain. All writers append to the same chain."""

    def __init__(self, keys: Callable[[], AuditKeys]) -> None:
        self._keys = keys

    def extend(self, connection: Connection) -> int:
        """Chain up to `BATCH` records, in the order of their ids. Return how many were chained.

        If another process is chaining records, chain nothing.
        """
        keys = self._keys()
        known = [key_id.to_bytes(4, "big") for key_id in keys.key_ids]
        with transaction(connection):
            if connection.execute(_LOCK, (LOCK_KEY,)).fetchone() != (True,):
                return 0
            # Read after the lock: each statement sees what the previous holder committed.
            pending = cast(
                "list[tuple[int, bytes, bytes]]",
                connection.execute(_PENDING, (known, BATCH)).fetchall(),
            )
            if not pending:
                return 0
            links = list(_links(keys, current_head(connection), pending))
            sequences, record_ids, codes = (list(column) for column in zip(*links, strict=True))
            connection.execute(_INSERT, (sequences, record_ids, codes))
            connection.execute(_DONE, (record_ids,))
        return len(pending)


def _links(
    keys: AuditKeys, head: AuditHead | None, pending: list[tuple[int, bytes, bytes]]
) -> Iterator[tuple[int, int, bytes]]:
    sequence, link = head or (0, BEFORE_FIRST)
    for record_id, at, sealed in pending:
        sequence += 1
        content = chained_content(keys, sealed)
        link = make_link(keys, link, ChainedRecord(sequence, record_id, at, content))
        yield sequence, record_id, link


def chained_content(keys: AuditKeys, sealed: bytes) -> bytes:
    """Return what a new link authenticates as the content of a record: the decrypted line.

    If the record can't be decrypted, return `UNREADABLE_MARK`, followed by the sealed bytes.
    """
    try:
        return open_record(keys, sealed).encode()
    except DecryptionError:
        return UNREADABLE_MARK + sealed


def linked_content(keys: AuditKeys, link: bytes, sealed: bytes) -> bytes:
    """Return what `link` authenticates as the content of a record.

    This is `sealed` if the link has format 1, and `chained_content` if it has a later format.
    """
    return sealed if covers_sealed_bytes(link) else chained_content(keys, sealed)


def current_head(connection: Connection) -> AuditHead | None:
    """Return the last link of the chain in the database; None if there is no link.

    Raises:
        FormatError: the number or the length of the link is wrong, so no writer made the link.
    """
    row = connection.execute(_HEAD).fetchone()
    if row is None:
        return None
    head = AuditHead(*cast("tuple[int, bytes]", row))
    if head.sequence < 1 or len(head.link) != LINK_BYTES:
        raise FormatError(
            f"the last link of the audit log is damaged: its number is {head.sequence}, its length "
            f"{len(head.link)} bytes"
        )
    return head


def has_link(connection: Connection, head: AuditHead) -> bool:
    """Return whether the chain in the database has `head.link` at number `head.sequence`."""
    return connection.execute(_LINK, (head.sequence,)).fetchone() == (head.link,)
