"""The audit log: records of what operators must account for, encrypted with the audit key."""

import struct
from collections.abc import Callable
from datetime import UTC, datetime
from typing import cast

from iot_cipher.aead import decrypt, encrypt
from iot_cipher.writer_keys import AuditKeys
from iot_models.errors import DecryptionError

from .postgres import Connection

FORMAT = 1
UNREADABLE = "(this entry can't be decrypted)"
_HEADER = struct.Struct(">BI")
_CONTEXT = b"iot-sensor audit"
"""Associated data: a record can't be passed off as another kind of ciphertext."""

_INSERT = "INSERT INTO audit_log (sealed) VALUES (%s)"
_SELECT = """
    SELECT id, at, sealed FROM audit_log
    WHERE %(before)s::bigint IS NULL OR id < %(before)s ORDER BY id DESC LIMIT %(count)s
"""


class AuditLog:
    """Lines of text. A line never contains a password or a reading."""

    def __init__(self, keys: Callable[[], AuditKeys]) -> None:
        self._keys = keys

    def record(self, connection: Connection, line: str) -> None:
        """Add a line, in the connection's transaction."""
        connection.execute(_INSERT, (self._seal(line.encode()),))

    def reseal(self, connection: Connection) -> tuple[int, int]:
        """Encrypt all lines of other keys again, with the primary key, batch by batch.

        Return how many lines were encrypted again, and how many can't be decrypted. A call that is
        killed may be repeated.
        """
        resealed = unreadable = last = 0
        primary = self._keys().primary_id.to_bytes(4, "big")
        while True:
            found = connection.execute(_UNDER_OTHER_KEYS, (last, primary, _BATCH)).fetchall()
            if not found:
                return resealed, unreadable
            changes = []
            for last, sealed in cast("list[tuple[int, bytes]]", found):
                try:
                    changes.append((self._seal(self._decrypt(sealed)), last, sealed))
                except (DecryptionError, struct.error):
                    unreadable += 1
            with connection.transaction(), connection.cursor() as cursor:
                cursor.executemany(_RESEAL, changes)
            resealed += len(changes)

    def count_readable(self, connection: Connection, key_id: int) -> int:
        """Return the number of lines that need this master key and can be decrypted."""
        found = connection.execute(_UNDER_KEY, (key_id.to_bytes(4, "big"),)).fetchall()
        return sum(
            self._open(sealed) != UNREADABLE for (sealed,) in cast("list[tuple[bytes]]", found)
        )

    def _seal(self, line: bytes) -> bytes:
        keys = self._keys()
        header = _HEADER.pack(FORMAT, keys.primary_id)
        return header + encrypt(keys.audit_key(keys.primary_id), line, header + _CONTEXT)

    def latest(
        self, connection: Connection, count: int, *, before: int | None = None
    ) -> list[tuple[int, str, str]]:
        """Return the last `count` lines in order, as (id, `YYYY-MM-DD HH:MM:SS` in UTC, line).

        `before`: the id up to which lines are returned, excluded; None: no limit.

        A line that was tampered with, or whose key was retired, is replaced by `UNREADABLE`.
        """
        found = connection.execute(_SELECT, {"before": before, "count": count}).fetchall()
        rows = cast("list[tuple[int, datetime, bytes]]", found)
        return [
            (entry_id, at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S"), self._open(sealed))
            for entry_id, at, sealed in reversed(rows)
        ]

    def _open(self, sealed: bytes) -> str:
        try:
            return open_record(self._keys(), sealed)
        except DecryptionError:
            return UNREADABLE


def open_record(keys: AuditKeys, sealed: bytes) -> str:
    """Return the line of a sealed record.

    Raises:
        DecryptionError: the record was changed, or its key is unknown.
    """
    header = sealed[: _HEADER.size]
    if len(header) < _HEADER.size:
        raise DecryptionError("an audit record is too short")
    _, key_id = _HEADER.unpack(header)
    return decrypt(keys.audit_key(key_id), sealed[_HEADER.size :], header + _CONTEXT).decode()
