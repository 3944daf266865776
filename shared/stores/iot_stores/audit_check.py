"""The check of the audit log: finds the first record that was changed, moved or deleted."""

from collections.abc import Iterator
from typing import NamedTuple, cast

from psycopg import IsolationLevel

from iot_cipher.audit_link import ChainedRecord, link_matches
from iot_cipher.chain_keys import BEFORE_FIRST
from iot_cipher.keyring import key_id_of
from iot_cipher.writer_keys import AuditKeys
from iot_models.errors import DecryptionError, IotError

from .audit import first_nonce, open_record
from .audit_chain import linked_content
from .audit_head import AuditHead
from .postgres import Connection

_PAGE = 1000
_CHAIN = """
    SELECT sequence, record_id, link, timestamptz_send(at), sealed
    FROM audit_chain LEFT JOIN audit_log ON id = record_id ORDER BY sequence
"""
_UNCHAINED = """
    SELECT id, sealed, at < now() - interval '1 minute',
        EXISTS (SELECT FROM audit_pending WHERE record_id = id)
    FROM audit_log WHERE NOT EXISTS (SELECT FROM audit_chain WHERE record_id = id) ORDER BY id
"""
_DELETED = """
    SELECT min(record_id) FROM audit_pending
    WHERE NOT EXISTS (SELECT FROM audit_log WHERE id = record_id)
"""
_EXPORT = """
    SELECT id, to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), sealed,
        sequence, link
    FROM audit_log LEFT JOIN audit_chain ON record_id = id ORDER BY id
"""


class AuditFaultError(IotError):
    """The audit log differs from what was written, or a record waits too long for its link.

    The message names the first fault.
    """


class CheckedAudit(NamedTuple):
    """The result of a check that found no fault."""

    head: AuditHead | None
    pending: int
    """Number of records that wait for their link."""


class ExportedRecord(NamedTuple):
    """An encrypted record of the audit log, with its link if it has one."""

    record_id: int
    at: str | None
    sealed: bytes
    sequence: int | None
    link: bytes | None


def check_audit(
    connection: Connection, keys: AuditKeys, published: AuditHead | None
) -> CheckedAudit:
    """Check every record and link, and that the chain has the published head.

    `published`: the published head, read before the call; None: no head is published. `connection`
    must have no open transaction: the check sets its isolation level, and makes it read-only.

    Raises:
        AuditFaultError: the first fault.
    """
    connection.isolation_level = IsolationLevel.REPEATABLE_READ  # one state for all queries
    connection.read_only = True
    with connection.transaction():
        check = _Check(keys, published)
        for row in _rows(connection, _CHAIN):
            check.chained(*cast("tuple[int, int, bytes, bytes | None, bytes | None]", row))
        head = check.end_of_chain()
        pending = 0
        for row in _rows(connection, _UNCHAINED):
            check.unchained(*cast("tuple[int, bytes, bool, bool]", row))
            pending += 1
        (deleted,) = connection.execute(_DELETED).fetchone() or (None,)
        if deleted is not None:
            raise AuditFaultError(f"record {deleted} was deleted before a writer chained it")
    return CheckedAudit(head, pending)


def export_audit(connection: Connection) -> Iterator[ExportedRecord]:
    """Yield all records, in the order of their ids."""
    with connection.transaction():
        for row in _rows(connection, _EXPORT):
            yield ExportedRecord(
                *cast("tuple[int, str | None, bytes, int | None, bytes | None]", row)
            )


def _rows(connection: Connection, statement: str) -> Iterator[tuple[object, ...]]:
    with connection.cursor("audit") as cursor:
        cursor.itersize = _PAGE
        cursor.execute(statement.encode())
        yield from cursor


class _Check:
    """The state of a running check of the audit log."""

    def __init__(self, keys: AuditKeys, published: AuditHead | None) -> None:
        self._keys = keys
        self._published = published
        self._head = AuditHead(0, BEFORE_FIRST)
        self._nonces: set[bytes] = set()

    def chained(
        self, sequence: int, record_id: int, link: bytes, at: bytes | None, sealed: bytes | None
    ) -> None:
        """Check the next link of the chain, and the record of this link.

        `at`, `sealed`: the record's time and encrypted content; None if the record was deleted.
        """
        expected = self._head.sequence + 1
        if sequence != expected:
            raise AuditFaultError(
                f"link {expected} of the chain is missing: the next link is {sequence}"
            )
        where = f"record {record_id} (link {sequence})"
        if at is None or sealed is None:
            raise AuditFaultError(f"{where} was deleted")
        # First: without the record's key, the link can't match either, although nobody changed it.
        self._open(where, sealed)
        content = linked_content(self._keys, link, sealed)
        record = ChainedRecord(sequence, record_id, at, content)
        try:
            matches = link_matches(self._keys, link, self._head.link, record)
        except DecryptionError as error:
            raise AuditFaultError(f"{where} can't be checked: {error}") from None
        if not matches:
            raise AuditFaultError(
                f"{where} does not match its link: the record or the link was changed or moved"
            )
        self._check_retired(where, sequence, link)
        self._head = AuditHead(sequence, link)
        if self._published and self._published.sequence == sequence:
            self._compare(self._published)

    def end_of_chain(self) -> AuditHead | None:
        """Check that the end of the chain was not cut off.

        The chain must be at least as long as it was when its head was published, and when each
        retired master key was retired. Return the last link; None if the chain is empty.
        """
        head = self._head if self._head.sequence else None
        for key_id, key in self._keys.retired.items():
            if key.sequence > self._head.sequence:
                raise AuditFaultError(
                    f"the chain ends at link {self._head.sequence}, but had {key.sequence} links "
                    f"when master key {key_id} was retired: the end of the chain was cut off, or "
                    "the database was restored"
                )
        if self._published is not None and self._published.sequence > self._head.sequence:
            raise AuditFaultError(
                f"the records from link {self._head.sequence + 1} on were deleted: the published "
                f"head is {self._published}, the chain ends at link {self._head.sequence}"
            )
        return head

    def unchained(self, record_id: int, sealed: bytes, old: bool, pending: bool) -> None:
        """Check a record that has no link.

        `old`: the record is more than a minute old. `pending`: its id is in `audit_pending`.
        """
        where = f"record {record_id} (not chained)"
        if not pending:
            raise AuditFaultError(
                f"{where} is missing from the table audit_pending, which lists all records without "
                "a link: the trigger note_pending_audit was disabled when the record was inserted, "
                "or the record had a link, which was deleted"
            )
        self._open(where, sealed)
        if old:
            raise AuditFaultError(
                f"{where} has waited for its link for more than a minute: no writer runs, writers "
                "can't make links (see their logs), or the time of the record was changed"
            )

    def _open(self, where: str, sealed: bytes) -> None:
        try:
            open_record(self._keys, sealed)
        except DecryptionError as error:
            raise AuditFaultError(f"{where} can't be decrypted: {error}") from None
        nonce = first_nonce(sealed)
        if nonce in self._nonces:
            raise AuditFaultError(f"{where} is a copy of another record")
        self._nonces.add(nonce)

    def _check_retired(self, where: str, sequence: int, link: bytes) -> None:
        """Check a link against the retired master keys.

        When a master key is retired, the keyring notes the last link of the chain. The retired key
        must not have made a later link, and the noted link must be unchanged.
        """
        retired = self._keys.retired
        maker = retired.get(key_id_of(link))
        if maker is not None and sequence > maker.sequence:
            raise AuditFaultError(
                f"{where} was chained with master key {key_id_of(link)}, although this key was "
                f"retired earlier, after link {maker.sequence}"
            )
        for key_id, key in retired.items():
            if key.sequence == sequence and key.link != link:
                raise AuditFaultError(
                    f"{where} does not have the link that it had when master key {key_id} was "
                    "retired: somebody made the chain again with the retired key, or the database "
                    "was restored"
                )

    def _compare(self, published: AuditHead) -> None:
        if self._head.link != published.link:
            raise AuditFaultError(
                f"link {published.sequence} differs from the published head ({published}): the "
                "end of the log was cut off and other records were added, or the database was "
                "restored"
            )
