"""Vault records: in Postgres for good, in Redis for a day, so that Postgres may be away."""

import logging
import struct
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
from iot_models.names import KeyNames

from .postgres import Connection, Pool, short_query
from .store_states import report
from .vault_lookups import (
    POLICY_COLUMNS,
    LookupPolicy,
    decode_policy,
    invalid_policy_error,
    raise_cost,
    read_policy,
)

CACHE_SECONDS = 86_400
_SCANNED_AT_A_TIME = 500

_log = logging.getLogger(__name__)

_COLUMNS: LiteralString = "vault_id, lookup, salt, scrypt_log2_n, wrapped_key"
# One statement, so one snapshot: a vault that is moved meanwhile is found under the one lookup or
# the other, and the policy says whether there may be lookups that were not asked for.
_FIND: LiteralString = f"""
    SELECT {POLICY_COLUMNS}, {_COLUMNS}
    FROM vault_lookups LEFT JOIN vaults ON lookup = ANY (%s::bytea[])
"""  # noqa: S608 - put together from constants
_INSERT: LiteralString = f"""
    INSERT INTO vaults ({_COLUMNS}, lookup_format)
    VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT (lookup) DO NOTHING
"""  # noqa: S608 - likewise
# Deliberate erasure leaves no row. What it leaves instead, a tombstone, must be looked for here, or
# a record that Redis or a process still has brings the vault back.
_RESTORE: LiteralString = f"""
    INSERT INTO vaults ({_COLUMNS}, lookup_format)
    VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING
"""  # noqa: S608 - likewise
# The vault itself before another one that has its lookup.
_STANDING: LiteralString = f"""
    SELECT {_COLUMNS} FROM vaults WHERE vault_id = %(vault_id)s OR lookup = %(lookup)s
    ORDER BY vault_id = %(vault_id)s DESC LIMIT 1
"""  # noqa: S608 - likewise
_WRAPPED_KEYS = "SELECT vault_id, wrapped_key FROM vaults WHERE vault_id = ANY (%s::uuid[])"
_REPLACE = """
    UPDATE vaults
    SET lookup = %s, salt = %s, scrypt_log2_n = %s, wrapped_key = %s, lookup_format = %s
    WHERE vault_id = %s AND wrapped_key = %s
"""

_HEADER = struct.Struct("<16s32s16sB")


@dataclass(frozen=True, slots=True)
class FoundVault:
    """What Postgres says of some lookups, as of one moment."""

    record: VaultRecord | None
    policy: LookupPolicy


class PolicyChangedError(Exception):
    """A vault was not created or moved, because new lookups have another format or cost by now."""


class VaultRecords:
    """Finds, adds and replaces vaults by the lookups of their passwords."""

    def __init__(self, client: "Redis", names: KeyNames, pool: Pool) -> None:
        self._client = client
        self._names = names
        self._pool = pool

    def find_cached(self, lookups: Sequence[bytes]) -> VaultRecord | None:
        """The record in Redis under the first of these lookups that has one.

        A record that can't be read counts as absent, and so does every one while Redis is away.
        Whether a record is right is found out by opening it.
        """
        try:
            held = self._client.mget([self._names.vault_record(lookup) for lookup in lookups])
        except RedisError as error:
            report(_log, "vaults are looked up in Postgres", error)
            return None
        for lookup, data in zip(lookups, cast("list[bytes | None]", held), strict=True):
            record = None if data is None else _decode(data)
            if record is not None and record.lookup == lookup:
                return record
        return None

    def find(self, lookups: Sequence[bytes]) -> FoundVault:
        """The record in Postgres under one of these lookups, and the policy of the same moment.

        A record that is found replaces the one in Redis.

        Raises:
            AWAY: Postgres can't serve.
        """
        found = self._pool.run_idempotent(lambda connection: _find(connection, lookups))
        if found.record is not None:
            self._cache(found.record)
        return found

    def add(self, record: VaultRecord) -> VaultRecord:
        """Store a new vault; the record that stands, which is another's if that came first.

        Postgres alone has it after that (`cache`).

        Raises:
            PolicyChangedError: new vaults have a lookup of another format or cost by now.
            AWAY: Postgres can't serve.
        """
        values = (*_values(record), record.format)

        def insert(connection: Connection) -> VaultRecord:
            if connection.execute(_INSERT, values).rowcount:
                return record
            return _find(connection, [record.lookup]).record or record

        with _recognizing_changed_policy():
            return self._pool.run_idempotent(insert)

    def restore(self, record: VaultRecord) -> VaultRecord:
        """Make sure that Postgres has a vault; the record that stands there.

        It is another record of the vault when the vault was moved, or a move was undone by a
        restore. It is another vault when one was created for the password while this vault was
        missing: then the record is kept in Redis, without an end, for it is the only copy.

        `record` must be known to be good: it was opened with the password, or is authentic
        (`iot_cipher.vault.is_authentic`).

        Raises:
            PolicyChangedError: the vault is missing, and new vaults have a lookup of another
                format or cost by now: it must be wrapped anew.
            AWAY: Postgres can't serve.
        """
        with _recognizing_changed_policy():
            standing = self._pool.run_idempotent(lambda connection: _restore(connection, record))
        if standing.vault_id != record.vault_id:
            self._client.set(
                self._names.replaced_vault_record(record.vault_id.bytes), _encode(record)
            )
        if self._cache(standing) and standing.vault_id == record.vault_id:
            self._forget(record, standing)
        return standing

    def find_missing(self, records: Collection[VaultRecord]) -> list[VaultRecord]:
        """Those of the records that do not stand in Postgres as they are.

        Raises:
            AWAY: Postgres can't serve.
        """
        if not records:
            return []
        asked = [record.vault_id for record in records]
        rows = self._pool.run_idempotent(
            lambda connection: short_query(connection, _WRAPPED_KEYS, (asked,)).fetchall()
        )
        standing = dict(cast("list[tuple[uuid.UUID, bytes]]", rows))
        return [each for each in records if standing.get(each.vault_id) != each.wrapped_key]

    def extend_expiry(self, records: Iterable[VaultRecord]) -> None:
        """Keep records in Redis for another day: they may be the only copies.

        Not that of a vault in whose place Postgres has another one: it has a name of its own, and
        under its lookup the other vault is found.
        """
        rest = iter(records)
        try:
            while page := list(islice(rest, _SCANNED_AT_A_TIME)):
                names = [self._names.replaced_vault_record(each.vault_id.bytes) for each in page]
                replaced = cast("list[bytes | None]", self._client.mget(names))
                with self._client.pipeline(transaction=False) as pipeline:
                    for record, other in zip(page, replaced, strict=True):
                        if other is None:
                            name = self._names.vault_record(record.lookup)
                            pipeline.set(name, _encode(record), ex=CACHE_SECONDS)
                    pipeline.execute()
        except RedisError as error:
            report(_log, "vault records are not cached", error)

    def scan_cached(self) -> Iterator[VaultRecord]:
        """Every record in Redis. Looks at the names of all keys.

        Raises:
            RedisError: Redis is away.
        """
        names = cast(
            "Iterator[bytes]",
            self._client.scan_iter(match=self._names.all_vault_records, count=_SCANNED_AT_A_TIME),
        )
        while page := list(islice(names, _SCANNED_AT_A_TIME)):
            for data in cast("list[bytes | None]", self._client.mget(page)):
                record = None if data is None else _decode(data)
                if record is not None:
                    yield record

    def replace(self, old: VaultRecord, new: VaultRecord) -> bool:
        """Store a vault's new record in the place of the old one; False when that is not there.

        Raises:
            PolicyChangedError: new lookups have another format or cost by now.
            AWAY: Postgres can't serve.
        """
        values = (*_values(new)[1:], new.format, old.vault_id, old.wrapped_key)
        with _recognizing_changed_policy(), self._pool.connection() as connection:
            replaced = connection.execute(_REPLACE, values).rowcount > 0
        if replaced and self._cache(new):
            self._forget(old, new)
        return replaced

    def raise_cost(self, cost: int) -> LookupPolicy:
        """Let new vaults cost at least `cost`, in log2 of scrypt's N; the policy after that.

        Raises:
            UnavailableError: the policy is wrong, or the cost could not be raised.
            AWAY: Postgres can't serve.
        """

        def raised(connection: Connection) -> LookupPolicy:
            for _ in range(2):  # an upgrade may end between the two statements
                raise_cost(connection, cost)
                policy = read_policy(connection)
                if not policy.costs_less_than(cost):
                    return policy
            raise invalid_policy_error(policy.fast_lookups, policy.costs)

        return self._pool.run_idempotent(raised)

    def cache(self, record: VaultRecord) -> None:
        """Store a record in Redis, for a day from now.

        Raises:
            RedisError: Redis can't serve; it can't be told whether Redis has the record.
        """
        name = self._names.vault_record(record.lookup)
        self._client.set(name, _encode(record), ex=CACHE_SECONDS)

    def _cache(self, record: VaultRecord) -> bool:
        """Store a record in Redis; False when that failed."""
        try:
            self.cache(record)
        except RedisError as error:
            report(_log, "vault records are not cached", error)
            return False
        return True

    def _forget(self, old: VaultRecord, new: VaultRecord) -> None:
        """Drop a record from Redis when the vault's new one has another lookup there."""
        if old.lookup == new.lookup:
            return
        try:
            # Not deleted: where the API has a user of its own, that user may delete nothing.
            self._client.set(self._names.vault_record(old.lookup), b"", px=1)
        except RedisError as error:
            report(_log, "old vault records stay in Redis", error)


@contextmanager
def _recognizing_changed_policy() -> Iterator[None]:
    """Raise `PolicyChangedError` for the error of the trigger `check_new_vault`."""
    try:
        yield
    except psycopg.errors.CannotConnectNow as error:
        # Postgres itself says so while it starts, and then never with a context.
        if error.diag.context is None:
            raise
        raise PolicyChangedError from None


def _find(connection: Connection, lookups: Sequence[bytes]) -> FoundVault:
    found = short_query(connection, _FIND, (list(lookups),)).fetchone()
    row = cast("Sequence[Any]", found or ("", [], False, None))
    policy, record = decode_policy(*row[:3]), row[3:]
    return FoundVault(None if record[0] is None else VaultRecord(*record), policy)


def _restore(connection: Connection, record: VaultRecord) -> VaultRecord:
    standing = _standing(connection, record)
    if standing is not None:
        return standing
    values = (*_values(record), record.format)
    if connection.execute(_RESTORE, values).rowcount:
        metrics.counter("iot_vaults_put_back_total").inc()
        _log.warning("vault %s was missing in Postgres; put back", record.vault_id)
    return _standing(connection, record) or record


def _standing(connection: Connection, record: VaultRecord) -> VaultRecord | None:
    asked = {"vault_id": record.vault_id, "lookup": record.lookup}
    found = connection.execute(_STANDING, asked).fetchone()
    return None if found is None else VaultRecord(*cast("Sequence[Any]", found))


def _values(record: VaultRecord) -> tuple[uuid.UUID, bytes, bytes, int, bytes]:
    return (
        record.vault_id, record.lookup, record.salt, record.scrypt_log2_n, record.wrapped_key,
    )  # fmt: skip


def _encode(record: VaultRecord) -> bytes:
    head = _HEADER.pack(record.vault_id.bytes, record.lookup, record.salt, record.scrypt_log2_n)
    return head + record.wrapped_key


def _decode(data: bytes) -> VaultRecord | None:
    """A record as `_encode` wrote it; None when it was cut short."""
    try:
        vault_id, lookup, salt, log2_n = _HEADER.unpack_from(data)
    except struct.error:
        return None
    return VaultRecord(uuid.UUID(bytes=vault_id), lookup, salt, log2_n, data[_HEADER.size :])
