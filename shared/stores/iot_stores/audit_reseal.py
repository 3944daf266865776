"""Encrypt the audit log again, so that it needs no old master key.

The links of the chain stay valid, because they authenticate the decrypted records. Only links of
format 1 authenticate the encrypted bytes, so links of format 1 are replaced first.
"""

from typing import LiteralString, cast

from iot_cipher.audit_link import ChainedRecord, link_matches, make_link
from iot_cipher.chain_keys import BEFORE_FIRST
from iot_cipher.keyring import KeyId
from iot_cipher.writer_keys import AuditKeys
from iot_models.errors import DecryptionError

from .audit import open_record, reseal_record
from .audit_chain import LOCK_KEY, chained_content, linked_content
from .audit_check import AuditFaultError
from .audit_head import AuditHead, PublishedAuditHead
from .postgres import Connection

_BATCH = 500
_BEFORE_ALL = -(2**63)
_UNDER_OTHER_KEYS: LiteralString = """
    SELECT id, sealed FROM audit_log WHERE id > %s AND substring(sealed FROM 2 FOR 4) <> %s
        AND NOT EXISTS (
            SELECT FROM audit_chain WHERE record_id = id AND substring(link FROM 1 FOR 1) = '\\x01'
        )
    ORDER BY id LIMIT %s
"""
_UNDER_KEY: LiteralString = "SELECT sealed FROM audit_log WHERE substring(sealed FROM 2 FOR 4) = %s"
_RESEAL: LiteralString = """
    UPDATE audit_log SET sealed = changed.after
    FROM unnest(%s::bigint[], %s::bytea[], %s::bytea[]) AS changed (id, before, after)
    WHERE audit_log.id = changed.id AND sealed = changed.before
"""
_LOCK: LiteralString = "SELECT pg_advisory_xact_lock(%s)"
_FIRST_OF_VERSION_1: LiteralString = (
    "SELECT min(sequence) FROM audit_chain WHERE substring(link FROM 1 FOR 1) = '\\x01'"
)
_LINK_BEFORE: LiteralString = "SELECT link FROM audit_chain WHERE sequence = %s"
_LINKED: LiteralString = """
    SELECT sequence, record_id, link, timestamptz_send(at), sealed
    FROM audit_chain JOIN audit_log ON id = record_id WHERE sequence >= %s ORDER BY sequence
"""
_REPLACE_LINKS: LiteralString = """
    UPDATE audit_chain SET link = changed.link
    FROM unnest(%s::bigint[], %s::bytea[]) AS changed (sequence, link)
    WHERE audit_chain.sequence = changed.sequence
"""


def renew_links(connection: Connection, keys: AuditKeys, published: PublishedAuditHead) -> int:
    """Replace the first link of format 1 and all links after it. Return how many were replaced.

    The new links have the newest format. All links after the first are replaced, whatever their
    format, because each link authenticates the link before it. If the published head is one of the
    replaced links, publish the link that replaces it.

    If the process is killed or Redis fails before the new head is published, `audit verify` reports
    that the chain lacks the published head. `audit accept` then accepts the chain.

    Raises:
        AuditFaultError: the chain is damaged, or lacks the published head. Nothing was replaced.
        DecryptionError: the key of a link is unknown. Nothing was replaced.
        ValueError: the value in Redis is not a head.
        RedisError: Redis can't serve.
    """
    with connection.transaction():
        connection.execute(_LOCK, (LOCK_KEY,))
        row = connection.execute(_FIRST_OF_VERSION_1).fetchone()
        first = cast("tuple[int | None]", row)[0]
        if first is None:
            return 0
        head = published.read()
        before = connection.execute(_LINK_BEFORE, (first - 1,)).fetchone()
        old, new = cast("tuple[bytes]", before or (BEFORE_FIRST,)) * 2
        renewed: dict[int, bytes] = {}
        found = connection.execute(_LINKED, (first,)).fetchall()
        for sequence, record_id, link, at, sealed in cast(
            "list[tuple[int, int, bytes, bytes, bytes]]", found
        ):
            record = ChainedRecord(sequence, record_id, at, linked_content(keys, link, sealed))
            is_lost = head is not None and head.sequence == sequence and head.link != link
            if is_lost or not link_matches(keys, link, old, record):
                raise AuditFaultError(
                    f"link {sequence} of the audit log is damaged: run `iot-sensor audit verify`"
                )
            covered = chained_content(keys, sealed)
            new = make_link(keys, new, record._replace(content=covered))
            old, renewed[sequence] = link, new
        if head is not None and head.sequence >= first and head.sequence not in renewed:
            raise AuditFaultError(
                f"the audit log lacks its published head, link {head.sequence}: run `iot-sensor "
                "audit verify`"
            )
        connection.execute(_REPLACE_LINKS, (list(renewed), list(renewed.values())))
    if head is not None and head.sequence in renewed:
        published.publish(AuditHead(head.sequence, renewed[head.sequence]))
    return len(renewed)


def reseal_audit(connection: Connection, keys: AuditKeys) -> tuple[int, int]:
    """Encrypt again, under the primary master key, the records that are under other keys.

    Return (number of records encrypted again, number of records that can't be decrypted). Records
    that can't be decrypted stay unchanged; `audit verify` finds them. Records with a link of format
    1 are left out: call `renew_links` first. If the process is killed, call this function again.
    """
    resealed, unreadable, last = 0, 0, _BEFORE_ALL
    primary = keys.primary_id.to_bytes(4, "big")
    while found := connection.execute(_UNDER_OTHER_KEYS, (last, primary, _BATCH)).fetchall():
        changes = []
        for last, sealed in cast("list[tuple[int, bytes]]", found):
            try:
                changes.append((last, sealed, reseal_record(keys, sealed)))
            except DecryptionError:
                unreadable += 1
        if changes:
            columns = [list(column) for column in zip(*changes, strict=True)]
            resealed += connection.execute(_RESEAL, columns).rowcount
    return resealed, unreadable


def count_readable(connection: Connection, keys: AuditKeys, key_id: KeyId) -> int:
    """Return the number of decryptable records that are encrypted under the master key `key_id`."""
    found = connection.execute(_UNDER_KEY, (key_id.to_bytes(4, "big"),)).fetchall()
    return sum(_is_readable(keys, sealed) for (sealed,) in cast("list[tuple[bytes]]", found))


def _is_readable(keys: AuditKeys, sealed: bytes) -> bool:
    try:
        open_record(keys, sealed)
    except DecryptionError:
        return False
    return True
