"""Vault records: stored in Postgres, and cached in Redis for a day.

The cache lets API processes open vaults while Postgres is away.
"""

import logging
import uuid
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any, LiteralString, cast

import psycopg
from redis import Redis
from redis.exceptions import RedisError

from iot_cipher.vault import VaultRecord
from iot_models import metrics
from iot_models.audit_event import AuditEvent
from iot_models.names import KeyNames

from .audit import AuditLog
from .cached_records import (
    CACHE_SECONDS,
    decode_record,
    encode_record,
    hide_records,
    remove_record,
    scan_records,
    show_records,
)
from .erasures import erased_among
from .postgres import Connection, Pool, short_query
from .recorded_vaults import COLUMNS, REPLACE, insert_vault, replace_vault
from .scripts import Call, load_script, run_all
from .store_states import report
from .vault_lookups import (
    POLICY_COLUMNS,
    LookupPolicy,
    decode_policy,
    invalid_policy_error,
    raise_cost,
    read_policy,
)

_BATCH = 500

_log = logging.getLogger(__name__)

# One statement sees one snapshot: a vault that gets a new lookup meanwhile is found by its old
# or its new lookup. The policy of this snapshot says which other lookups a vault may have.
_FIND: LiteralString = f"""
    SELECT {POLICY_COLUMNS}, {COLUMNS}
    FROM vault_lookups LEFT JOIN vaults ON lookup = ANY (%s::bytea[])
    ORDER BY array_position(%s::bytea[], lookup)
    LIMIT 1
"""  # noqa: S608 - composed of constants
# A trigger refuses erased vaults: a record in Redis or in a process would restore them otherwise.
_RESTORE: LiteralString = f"""
    INSERT INTO vaults ({COLUMNS}, lookup_format)
    VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING
"""  # noqa: S608 - composed of constants
# If both exist, the vault itself comes before another vault with its lookup.
_STORED: LiteralString = f"""
    SELECT {COLUMNS} FROM vaults WHERE vault_id = %(vault_id)s OR lookup = %(lookup)s
    ORDER BY vault_id = %(vault_id)s DESC LIMIT 1
"""  # noqa: S608 - composed of constants
_BY_ID: LiteralString = f"SELECT {COLUMNS} FROM vaults WHERE vault_id = ANY (%s::uuid[])"  # noqa: S608


@dataclass(frozen=True, slots=True)
class FoundVault:
    """The record that `VaultRecords.find` found in Postgres, or None, and the lookup policy."""

    record: VaultRecord | None
    policy: LookupPolicy


class PolicyChangedError(Exception):
    """A vault was not stored, because the policy now requires another format or cost."""


class VaultErasedError(Exception):
    """A vault was not stored, because it was erased."""


class LookupTakenError(Exception):
    """A vault did not get a new password, because another vault has that password's lookup."""


class VaultRecords:
    """The vault records of an installation, found by the lookups of their passwords."""

    def __init__(
        self,
        client: "Redis",
        names: KeyNames,
        pool: Pool,
        audit: AuditLog,
        *,
        audits_new_vaults: bool = False,
    ) -> None:
        self._audit = audit
        self._audit_of_new_vaults = audit if audits_new_vaults else None
        self._client = client
        self._names = names
        self._pool = pool
        self._cache_script = load_script(client, "vault_record_cache.lua")

    def find_cached(self, lookups: Sequence[bytes]) -> VaultRecord | None:
        """Return the first record cached in Redis under one of a password's lookups, or None.

        Skip records that can't be decoded, and records whose vault has another password now
        (`hide`). The caller must open the record to know whether it is authentic.

        Raises:
            RedisError: Redis can't serve. The password may have a vault, even if Postgres has no
                record: Redis may hold the only copy.
        """
        names = [self._names.vault_record(lookup) for lookup in lookups]
        names += [self._names.changed_lookup(lookup) for lookup in lookups]
        cached = cast("list[bytes | None]", self._client.mget(names))
        of_records, of_changes = cached[: len(lookups)], cached[len(lookups) :]
        for lookup, data, changed in zip(lookups, of_records, of_changes, strict=True):
            record = None if data is None else decode_record(data)
            if record is None or record.lookup != lookup:
                continue
            if changed != record.vault_id.bytes:
                return record
        return None

    def find(self, lookups: Sequence[bytes]) -> FoundVault:
        """Find a vault in Postgres by the lookups of its password. Read the lookup policy, too.

        If several lookups have a record, return the record of the first of them. Record and policy
        come from the same snapshot. Cache the record in Redis.

        Raises:
            UnavailableError: the policy in Postgres is invalid.
            POSTGRES_UNAVAILABLE: Postgres can't serve.
        """
        found = self._pool.run_idempotent(lambda connection: _find(connection, lookups))
        if found.record is not None:
            self._overwrite(found.record)
        return found

    def add(self, record: VaultRecord, event: AuditEvent) -> VaultRecord:
        """Store a new vault in Postgres, and return the stored record.

        If new vaults are audited, add `event` to the audit log. If another process created a vault
        of the same password first, return the record of that vault. The record is not cached in
        Redis (see `cache`).

        Raises:
            PolicyChangedError: the policy for lookups now requires another format or cost.
            POSTGRES_UNAVAILABLE: Postgres can't serve.
        """
        values = (*_values(record), record.format)

        @_translating_refusals()
        def insert(connection: Connection) -> VaultRecord:
            if insert_vault(connection, self._audit_of_new_vaults, values, event):
                return record
            return _find(connection, [record.lookup]).record or record

        return self._pool.run_idempotent(insert)

    def restore(self, record: VaultRecord) -> VaultRecord:
        """Store a vault in Postgres if Postgres lacks it. Return the stored record.

        Postgres lacks vaults after it was restored from a backup, or after a failover to a replica
        that lagged behind. The stored record differs from `record` in two cases:

        - It is another record of this vault: a newer one (with a new lookup, password or outer
          wrap), or an older one from a backup.
        - It is the record of another vault, which was created for the password while this vault was
          missing. Then `record` is kept in Redis without expiry, because it is the only copy.

        `record` must have been opened with its password, or be authentic
        (`iot_cipher.vault.is_authentic`).

        Raises:
            PolicyChangedError: Postgres lacks the vault, and the policy now requires another format
                or cost: the vault must be wrapped again.
            VaultErasedError: the vault was erased; `record` is not kept in Redis.
            RedisError: another vault has the password, and `record` could not be kept in Redis.
            POSTGRES_UNAVAILABLE: Postgres can't serve.
        """
        stored = self._pool.run_idempotent(lambda connection: _restore(connection, record))
        if stored.vault_id != record.vault_id:
            self._client.set(
                self._names.replaced_vault_record(record.vault_id.bytes), encode_record(record)
            )
        if self._overwrite(stored) and stored.vault_id == record.vault_id:
            self._expire_old_record(record, stored)
        return stored

    def find_changed(
        self, records: Collection[VaultRecord]
    ) -> list[tuple[VaultRecord, VaultRecord | None]]:
        """Return the records that differ from the record of the same vault in Postgres.

        Return them as pairs (record, record in Postgres; None if Postgres lacks the vault).

        Raises:
            POSTGRES_UNAVAILABLE: Postgres can't serve.
        """
        if not records:
            return []
        vault_ids = [record.vault_id for record in records]
        stored = self._pool.run_idempotent(lambda connection: find_by_ids(connection, vault_ids))
        return [
            (record, stored.get(record.vault_id))
            for record in records
            if stored.get(record.vault_id) != record
        ]

    def extend_expiry(self, records: Iterable[VaultRecord]) -> None:
        """Cache records in Redis for another day, because they may be the only copies.

        Skip a record that `restore` keeps in Redis without expiry, and a record under whose lookup
        Redis has another vault (see `cache`). If Redis fails, log the error and return.
        """
        rest = iter(records)
        try:
            while batch := list(islice(rest, _BATCH)):
                names = [
                    self._names.replaced_vault_record(record.vault_id.bytes) for record in batch
                ]
                replaced = cast("list[bytes | None]", self._client.mget(names))
                calls = [
                    self._cache_call(record)
                    for record, replaced_record in zip(batch, replaced, strict=True)
                    if replaced_record is None
                ]
                run_all(self._client, self._cache_script, calls)
        except RedisError as error:
            report(_log, "vault records are not cached", error)

    def scan_cached(self) -> Iterator[VaultRecord]:
        """Yield the records cached in Redis, except those whose vault has another password now.

        Scans all keys of Redis.

        Raises:
            RedisError: Redis can't serve.
        """
        found = scan_records(self._client, self._names)
        while records := list(islice(found, _BATCH)):
            names = [self._names.changed_lookup(record.lookup) for record in records]
            marks = cast("list[bytes | None]", self._client.mget(names))
            for record, changed in zip(records, marks, strict=True):
                if changed != record.vault_id.bytes:
                    yield record

    def replace(self, old: VaultRecord, new: VaultRecord) -> bool:
        """Replace the record of a vault in Postgres, then in Redis. Return whether this was done.

        Nothing is done if Postgres does not have the old record. If only Redis fails, log the error
        and return True.

        Raises:
            PolicyChangedError: the policy for lookups now requires another format or cost.
            POSTGRES_UNAVAILABLE: Postgres can't serve.
        """
        values = (*_values(new)[1:], new.format, old.vault_id, old.wrapped_key)
        with self._pool.connection() as connection, _translating_refusals():
            replaced = connection.execute(REPLACE, values).rowcount > 0
        if replaced and self._overwrite(new):
            self._expire_old_record(old, new)
            self.show([new])
        return replaced

    def change_password(self, old: VaultRecord, new: VaultRecord, event: AuditEvent) -> bool:
        """Replace the record of a vault by one under another password.

        Add `event` to the audit log in the same transaction. Return False if Postgres does not have
        the old record. Redis is not changed.

        Raises:
            LookupTakenError: another vault has the new lookup.
            PolicyChangedError: the policy for lookups now requires another format or cost.
            UnavailableError: the database can't append to the audit log. Nothing was changed.
            POSTGRES_UNAVAILABLE: Postgres can't serve. The record may have been replaced or not.
        """
        values = (*_values(new)[1:], new.format, old.vault_id, old.wrapped_key)

        @_translating_refusals()
        def change(connection: Connection) -> bool:
            if replace_vault(connection, self._audit, values, event):
                return True
            # An attempt whose session ended may have been committed.
            stored = _stored(connection, new)
            return stored is not None and stored.wrapped_key == new.wrapped_key

        try:
            return self._pool.run_idempotent(change)
        except psycopg.errors.UniqueViolation:
            raise LookupTakenError from None

    def hide(self, record: VaultRecord) -> None:
        """Remove the record of an old password from the cache in Redis, and keep it hidden.

        A process that read Postgres before the change may cache the record again. So a Redis key
        tells all processes to ignore it (`hide_records`). If Redis fails, log the error and return.
        """
        try:
            hide_records(self._client, self._names, record.vault_id, [record.lookup])
        except RedisError as error:
            report(_log, "old vault records stay in Redis", error)

    def show(self, records: Iterable[VaultRecord], *, hidden_for: int = 0) -> None:
        """Undo `hide` for records in Postgres that were hidden at least `hidden_for` seconds ago.

        If Redis fails, log the error and return.
        """
        vaults = {record.lookup: record.vault_id for record in records}
        try:
            show_records(self._client, self._names, vaults, hidden_for=hidden_for)
        except RedisError as error:
            report(_log, "vault records stay hidden in Redis", error)

    def raise_cost(self, cost: int) -> LookupPolicy:
        """Raise the scrypt cost (log2 of N) of new vaults to `cost`. Return the new policy.

        The cost stays if it is higher already, or while new vaults have format 1.

        Raises:
            UnavailableError: the policy is invalid, or the cost could not be raised.
            POSTGRES_UNAVAILABLE: Postgres can't serve.
        """

        def raised(connection: Connection) -> LookupPolicy:
            for _ in range(2):  # the policy may leave FastLookups.CREATED between two statements
                raise_cost(connection, cost)
                policy = read_policy(connection)
                if not policy.costs_less_than(cost):
                    return policy
            raise invalid_policy_error(policy.fast_lookups, policy.costs)

        return self._pool.run_idempotent(raised)

    def cache(self, record: VaultRecord) -> bool:
        """Cache a record in Redis for a day from now.

        A record that `hide` has hidden is replaced. If Redis has the record of another vault under
        the lookup, change nothing and return False: that record may be the only copy.

        Raises:
            RedisError: the record may have been cached or not.
        """
        (other,) = run_all(self._client, self._cache_script, [self._cache_call(record)])
        return other is None

    def _cache_call(self, record: VaultRecord) -> Call:
        lookup = record.lookup
        keys = [self._names.vault_record(lookup), self._names.changed_lookup(lookup)]
        return keys, [encode_record(record), CACHE_SECONDS]

    def _overwrite(self, record: VaultRecord) -> bool:
        """Cache in Redis a record that Postgres has, in place of any record under its lookup.

        Return False if Redis can't serve.
        """
        try:
            name = self._names.vault_record(record.lookup)
            self._client.set(name, encode_record(record), ex=CACHE_SECONDS)
        except RedisError as error:
            report(_log, "vault records are not cached", error)
            return False
        return True

    def _expire_old_record(self, old: VaultRecord, new: VaultRecord) -> None:
        """Remove a vault's old record from Redis if the new record has another lookup.

        If Redis fails, log the error and return.
        """
        if old.lookup == new.lookup:
            return
        try:
            remove_record(self._client, self._names, old.vault_id, old.lookup)
        except RedisError as error:
            report(_log, "old vault records stay in Redis", error)


@contextmanager
def _translating_refusals() -> Iterator[None]:
    """Raise `PolicyChangedError` or `VaultErasedError` if a trigger in Postgres refuses a vault.

    The triggers are `check_new_vault` and `refuse_erased_vault`. They use an SQLSTATE that stands
    for a server that can't serve. The pool must not see this error: it would close all connections.
    """
    try:
        yield
    except psycopg.errors.CannotConnectNow as error:
        # Postgres uses this SQLSTATE while it starts, but then without the context of a function.
        if error.diag.context is None:
            raise
        if error.diag.constraint_name == "erased_vaults":
            raise VaultErasedError from None
        raise PolicyChangedError from None


def _find(connection: Connection, lookups: Sequence[bytes]) -> FoundVault:
    found = short_query(connection, _FIND, (list(lookups), list(lookups))).fetchone()
    row = cast("Sequence[Any]", found or ("", [], False, None))
    policy, record = decode_policy(*row[:3]), row[3:]
    return FoundVault(None if record[0] is None else VaultRecord(*record), policy)


def find_by_ids(
    connection: Connection, vault_ids: Sequence[uuid.UUID]
) -> dict[uuid.UUID, VaultRecord]:
    """Return the records of these vaults in Postgres, by id. Missing vaults are left out."""
    rows = short_query(connection, _BY_ID, (list(vault_ids),)).fetchall()
    return {row[0]: VaultRecord(*row) for row in cast("Sequence[Sequence[Any]]", rows)}


@_translating_refusals()
def _restore(connection: Connection, record: VaultRecord) -> VaultRecord:
    stored = _stored(connection, record)
    if stored is None:
        if connection.execute(_RESTORE, (*_values(record), record.format)).rowcount:
            metrics.counter("iot_vaults_put_back_total").inc()
            _log.warning("restored vault %s, which Postgres lacked", record.vault_id)
        stored = _stored(connection, record) or record
    # Without an insert, for example because another process has just inserted a new vault with this
    # lookup, the trigger does not check the vault.
    if stored.vault_id != record.vault_id and erased_among(connection, [record.vault_id]):
        raise VaultErasedError
    return stored


def _stored(connection: Connection, record: VaultRecord) -> VaultRecord | None:
    """Return the vault's stored record, else that of another vault with its lookup, else None."""
    parameters = {"vault_id": record.vault_id, "lookup": record.lookup}
    found = connection.execute(_STORED, parameters).fetchone()
    return None if found is None else VaultRecord(*cast("Sequence[Any]", found))


def _values(record: VaultRecord) -> tuple[uuid.UUID, bytes, bytes, int, bytes]:
    return record.vault_id, record.lookup, record.salt, record.scrypt_log2_n, record.wrapped_key
