"""Erased vaults: their tombstones in Postgres, and what Redis still has of them.

`erase` deletes the record of a vault and writes a tombstone, in one transaction. From then on,
nothing opens the vault or stores readings in it. API processes remove the vault's records from
Redis; writers delete its segments, held entries and dead letters. Each of these steps is repeated
until it is noted in the tombstone, so a process may be killed at any point.
"""

import uuid
from collections.abc import Collection, Iterable
from typing import NamedTuple, cast

from redis import Redis

from iot_models.audit_event import AuditEvent
from iot_models.names import KeyNames

from .audit import AuditLog
from .cached_records import hide_records
from .key_deletion import delete_key
from .password_changes import (
    ERASED,
    ERASING,
    SETTLING_SECONDS,
    PasswordChange,
    PasswordChanges,
)
from .postgres import Connection, Pool, short_query, transaction

_MAX_LISTED = 100

_ERASE = "SELECT erase_vault(%s::uuid, %s::bytea[])"
_EXISTS = "SELECT to_regclass('erased_vaults') IS NOT NULL"
_ERASED = "SELECT vault_id FROM erased_vaults WHERE vault_id = ANY(%s::uuid[])"
_CACHED = """
    SELECT vault_id, lookups, erased_at < now() - %s * interval '1 s' FROM erased_vaults
    WHERE lookups IS NOT NULL ORDER BY erased_at LIMIT %s
"""
_FORGET_LOOKUPS = "SELECT forget_erased_lookups(%s::uuid)"
_UNFINISHED = """
    SELECT vault_id, noted FROM erased_vaults
    WHERE deleted_at IS NULL AND (NOT noted OR erased_at < now() - %s * interval '1 s')
    ORDER BY erased_at LIMIT %s
"""
_NOTE = "UPDATE erased_vaults SET noted = true WHERE vault_id = %s AND NOT noted"
_FINISH = "UPDATE erased_vaults SET deleted_at = now() WHERE vault_id = %s"


class UnfinishedErasure(NamedTuple):
    """An erased vault that may still have segments (Postgres, hot window) or dead letters."""

    vault_id: uuid.UUID
    noted: bool
    """Whether the first of the two deletions of the vault's data is done (see `unfinished`)."""


class Erasures:
    """The steps of an API process to erase a vault: announce it, delete the record, clean Redis."""

    def __init__(
        self,
        client: "Redis",
        names: KeyNames,
        pool: Pool,
        changes: PasswordChanges,
        audit: AuditLog,
    ) -> None:
        self._audit = audit
        self._client = client
        self._names = names
        self._pool = pool
        self._changes = changes

    def announce(
        self, vault_id: uuid.UUID, lookups: Collection[bytes], *, done: bool = False
    ) -> None:
        """Make all API processes forget a vault. Hide and remove its records in Redis.

        Call this before `erase`, and again after it with `done=True`. Between these two calls, a
        process may still open the vault, but keeps it open for only half a second. After the
        second call, processes do not keep the vault open at all.

        Raises:
            RedisError: the erasure may have been announced or not.
        """
        change = PasswordChange(vault_id, ERASED if done else ERASING)
        self._changes.announce(change, list(lookups))

    def erase(self, vault_id: uuid.UUID, lookups: Collection[bytes], event: AuditEvent) -> bool:
        """Delete a vault's record, write its tombstone and add `event` to the audit log.

        All of this is one transaction. Return whether this or an earlier call erased the vault;
        False if Postgres has no such vault under any of the lookups.

        Raises:
            POSTGRES_UNAVAILABLE: Postgres can't serve; the vault may have been erased or not. Also
                raised, before anything is erased, while processes of version 0.1 may run: these
                processes could store readings for an erased vault.
            UnavailableError: the database can't append to the audit log; nothing was erased.
        """

        def work(connection: Connection) -> bool:
            with transaction(connection):
                row = short_query(connection, _ERASE, (vault_id, list(lookups))).fetchone()
                (outcome,) = cast("tuple[str]", row)
                if outcome == "erased":
                    self._audit.append(connection, event)
            return outcome != "unknown"

        return self._pool.run_idempotent(work)

    def clean_redis(self) -> int:
        """Remove the records of erased vaults from Redis. Return the number of these vaults.

        Each call removes the records again, until `SETTLING_SECONDS` after the erasure: a process
        that read a record before the erasure may cache it afterwards.

        Raises:
            RedisError, POSTGRES_UNAVAILABLE: a store is away.
        """
        with self._pool.connection() as connection:
            if not _has_tombstones(connection):
                return 0
            rows = connection.execute(_CACHED, (SETTLING_SECONDS, _MAX_LISTED)).fetchall()
        found = cast("list[tuple[uuid.UUID, list[bytes], bool]]", rows)
        for vault_id, lookups, settled in found:
            self.remove_records(vault_id, lookups)
            if settled:
                with self._pool.connection() as connection:
                    connection.execute(_FORGET_LOOKUPS, (vault_id,))
        return len(found)

    def remove_records(self, vault_id: uuid.UUID, lookups: Collection[bytes]) -> None:
        """Hide and remove the records of a vault in Redis.

        Records of other vaults under the same lookups stay. Also forget when the vault was last
        scanned for small segments. Raises `RedisError`.
        """
        hide_records(self._client, self._names, vault_id, lookups)
        names = (
            self._names.replaced_vault_record(vault_id.bytes),
            self._names.compaction_looked(vault_id.bytes),
            self._names.compaction_looked_back(vault_id.bytes),
        )
        with self._client.pipeline(transaction=False) as pipeline:
            for name in names:
                delete_key(pipeline, name)
            pipeline.execute()


def erased_among(connection: Connection, vaults: Collection[uuid.UUID]) -> set[uuid.UUID]:
    """Return the subset of the vaults that have a tombstone."""
    # A writer may run before the migration of its version.
    if not vaults or not _has_tombstones(connection):
        return set()
    rows = connection.execute(_ERASED, (list(vaults),))
    return {vault_id for (vault_id,) in cast("Iterable[tuple[uuid.UUID]]", rows)}


def unfinished(connection: Connection, limit: int) -> list[UnfinishedErasure]:
    """Return up to `limit` erased vaults whose segments and dead letters must be deleted now.

    The segments and dead letters of a vault are deleted twice: as soon as the vault is erased (see
    `note`), and again `SETTLING_SECONDS` after the erasure (see `finish`), because a process may
    have added data in between.
    """
    if not _has_tombstones(connection):
        return []
    rows = connection.execute(_UNFINISHED, (SETTLING_SECONDS, limit)).fetchall()
    return [UnfinishedErasure(*row) for row in cast("list[tuple[uuid.UUID, bool]]", rows)]


def note(connection: Connection, vault_id: uuid.UUID) -> bool:
    """Record that the first of the two deletions of a vault's data is done (see `unfinished`).

    Return False if this is recorded already.
    """
    return connection.execute(_NOTE, (vault_id,)).rowcount > 0


def finish(connection: Connection, vault_id: uuid.UUID) -> None:
    """Record that the second and last deletion of a vault's data is done (see `unfinished`)."""
    connection.execute(_FINISH, (vault_id,))


def _has_tombstones(connection: Connection) -> bool:
    return connection.execute(_EXISTS).fetchone() == (True,)
