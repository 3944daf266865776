"""The audit log: records of what operators must account for, encrypted with the audit key.

    0x01 | key id (4) | nonce (12) | ciphertext and tag
    0x02 | key id (4) | first nonce (12) | nonce (12) | ciphertext and tag

The first byte is the format; lengths in bytes are in parentheses. A rotation of the master keys
encrypts records again, in format 2. A record keeps its first nonce, which no other record has.
"""

import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import cast

import psycopg

from iot_cipher.encryption import NONCE_BYTES, decrypt, encrypt
from iot_cipher.writer_keys import AuditKeys
from iot_models import metrics
from iot_models.audit_event import AuditEvent
from iot_models.errors import DecryptionError, UnavailableError

from .postgres import Connection

FORMAT, RESEALED_FORMAT = 1, 2
UNREADABLE = "(this record can't be decrypted)"
_HEADER = struct.Struct(">BI")
_FIRST_NONCE = slice(_HEADER.size, _HEADER.size + NONCE_BYTES)
_CONTEXT = b"iot-sensor audit"
"""Part of the associated data of AES-GCM: no other kind of ciphertext decrypts as a record."""

_INSERT = "INSERT INTO audit_log (sealed) VALUES (%s)"
_APPEND = "SELECT record_audit_event(%s)"
CANT_APPEND = (psycopg.errors.UndefinedFunction, psycopg.errors.InsufficientPrivilege)
_SELECT = """
    SELECT id, at, sealed FROM audit_log
    WHERE %(before)s::bigint IS NULL OR id < %(before)s ORDER BY id DESC LIMIT %(count)s
"""


class AuditLog:
    """The records of the audit log.

    A record is one line of text: an event as JSON, or a sentence that an earlier version stored. No
    record contains a password, a token or a reading.
    """

    def __init__(self, keys: Callable[[], AuditKeys]) -> None:
        self._keys = keys

    def record(self, connection: Connection, event: AuditEvent | str) -> None:
        """Add a record, in the connection's transaction, with the rights of a writer."""
        connection.execute(_INSERT, (self.seal(event),))

    def append(self, connection: Connection, event: AuditEvent) -> None:
        """Add a record, in the connection's transaction, with the rights of an API process.

        Raises:
            UnavailableError: the database lacks the function `record_audit_event`, or the role may
                not call it.
        """
        with appending():
            connection.execute(_APPEND, (self.seal(event),))
        metrics.counter("iot_audit_recorded_total").inc()

    def seal(self, event: AuditEvent | str) -> bytes:
        """Return an event as a sealed record. Two calls return different bytes for one event."""
        line = event if isinstance(event, str) else event.encode()
        keys = self._keys()
        header = _HEADER.pack(FORMAT, keys.primary_id)
        key = keys.audit_key(keys.primary_id)
        return header + encrypt(key, line.encode(errors="replace"), header + _CONTEXT)

    def latest(
        self, connection: Connection, count: int, *, before: int | None = None
    ) -> list[tuple[int, str, str]]:
        """Return the latest `count` records as (id, time, line), the oldest first.

        `before` is an id: only records with smaller ids are returned. The time is
        `YYYY-MM-DD HH:MM:SS` in UTC. The line is `UNREADABLE` if the record was changed or its key
        was removed.
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


@contextmanager
def appending() -> Iterator[None]:
    """Raise `UnavailableError` if Postgres does not let the `with` block append a record.

    This happens if `iot-sensor migrate` has not run yet, or if the database role lacks a right.
    """
    try:
        yield
    except CANT_APPEND as error:
        raise UnavailableError(
            f"the audit log can't be written ({error.diag.message_primary}): run `iot-sensor "
            "migrate`, with --grant if API and writers use different roles of Postgres"
        ) from None


def open_record(keys: AuditKeys, sealed: bytes) -> str:
    """Return the line of a sealed record.

    Raises:
        DecryptionError: the record was changed or is not text, or its key is unknown.
    """
    if len(sealed) < _FIRST_NONCE.stop:
        raise DecryptionError("an audit record is too short")
    record_format, key_id = _HEADER.unpack_from(sealed)
    if record_format not in {FORMAT, RESEALED_FORMAT}:
        raise DecryptionError("an audit record has an unknown format")
    clear = _FIRST_NONCE.stop if record_format == RESEALED_FORMAT else _HEADER.size
    key = keys.audit_key(key_id)
    line = decrypt(key, sealed[clear:], sealed[:clear] + _CONTEXT)
    try:
        return line.decode()
    except UnicodeDecodeError:
        # Forged with the audit key. The record must not stop the chaining or a rotation.
        raise DecryptionError("an audit record is not text") from None


def reseal_record(keys: AuditKeys, sealed: bytes) -> bytes:
    """Decrypt a sealed record, and return it encrypted again under the primary master key.

    Raises:
        DecryptionError: the record was changed, or its key is unknown.
    """
    line = open_record(keys, sealed)
    clear = _HEADER.pack(RESEALED_FORMAT, keys.primary_id) + first_nonce(sealed)
    # `encrypt` takes a new nonce: a thief of the old key could have chosen the first nonce.
    return clear + encrypt(keys.audit_key(keys.primary_id), line.encode(), clear + _CONTEXT)


def first_nonce(sealed: bytes) -> bytes:
    """Return the nonce with which a record was first encrypted. No two records share it."""
    return sealed[_FIRST_NONCE]
