"""Encrypt the audit log again, so that it needs no old master key. The links of the chain stay."""

from typing import LiteralString, cast

from iot_cipher.keyring import KeyId
from iot_cipher.writer_keys import AuditKeys
from iot_models.errors import DecryptionError

from .audit import open_record, reseal_record
from .postgres import Connection

_BATCH = 500
_BEFORE_ALL = -(2**63)
_UNDER_OTHER_KEYS: LiteralString = """
    SELECT id, sealed FROM audit_log WHERE id > %s AND substring(sealed FROM 2 FOR 4) <> %s
    ORDER BY id LIMIT %s
"""
_UNDER_KEY: LiteralString = "SELECT sealed FROM audit_log WHERE substring(sealed FROM 2 FOR 4) = %s"
_RESEAL: LiteralString = """
    UPDATE audit_log SET sealed = changed.after
    FROM unnest(%s::bigint[], %s::bytea[], %s::bytea[]) AS changed (id, before, after)
    WHERE audit_log.id = changed.id AND sealed = changed.before
"""


def reseal_audit(connection: Connection, keys: AuditKeys) -> tuple[int, int]:
    """Encrypt all records of other keys again, with the primary key, batch by batch.

    Return how many records were encrypted again, and how many can't be decrypted. A call that is
    killed may be repeated. A record that can't be decrypted stays for `audit verify` to find.
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
    """Return the number of records that need this master key and can be decrypted."""
    found = connection.execute(_UNDER_KEY, (key_id.to_bytes(4, "big"),)).fetchall()
    return sum(_is_readable(keys, sealed) for (sealed,) in cast("list[tuple[bytes]]", found))


def _is_readable(keys: AuditKeys, sealed: bytes) -> bool:
    try:
        open_record(keys, sealed)
    except DecryptionError:
        return False
    return True
