"""Vault records: in Postgres for good, in Redis for a day, so that Postgres may be away."""

import logging
import struct
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, LiteralString, cast

import psycopg
from redis import Redis
from redis.exceptions import RedisError

from iot_cipher.vault import VaultRecord
from iot_models.names import KeyNames

from .postgres import Connection, Pool, short_query
from .store_states import report
from .vault_lookups import (
    POLICY_COLUMNS,
    LookupPolicy,
    decode_policy,
    raise_cost,
    read_policy,
    wrong_policy,
)

CACHE_SECONDS = 86_400

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

    def cached(self, lookups: Sequence[bytes]) -> VaultRecord | None:
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
        with self._pool.connection() as connection:
            found = _find(connection, lookups)
        if found.record is not None:
            self._cache(found.record)
        return found

    def add(self, record: VaultRecord) -> VaultRecord:
        """Store a new vault; the record that stands, which is another's if that came first.

        Raises:
            PolicyChangedError: new vaults have a lookup of another format or cost by now.
            AWAY: Postgres can't serve.
        """
        values = (*_values(record), record.format)
        with _recognizing_changed_policy(), self._pool.connection() as connection:
            if connection.execute(_INSERT, values).rowcount:
                standing = record
            else:
                standing = _find(connection, [record.lookup]).record or record
        self._cache(standing)
        return standing

    def replace(self, old: VaultRecord, new: VaultRecord) -> bool:
        """Store a vault's new record in the place of the old one; False when that is not there.

        Raises:
            PolicyChangedError: new lookups have another format or cost by now.
            AWAY: Postgres can't serve.
        """
        values = (*_values(new)[1:], new.format, old.vault_id, old.wrapped_key)
        with _recognizing_changed_policy(), self._pool.connection() as connection:
            replaced = connection.execute(_REPLACE, values).rowcount > 0
        if replaced:
            self._cache(new)
            self._forget(old.lookup)
        return replaced

    def raise_cost(self, cost: int) -> LookupPolicy:
        """Let new vaults cost at least `cost`, in log2 of scrypt's N; the policy after that.

        Raises:
            UnavailableError: the policy is wrong, or the cost could not be raised.
            AWAY: Postgres can't serve.
        """
        with self._pool.connection() as connection:
            for _ in range(2):  # an upgrade may end between the two statements
                raise_cost(connection, cost)
                policy = read_policy(connection)
                if not policy.cost_below(cost):
                    return policy
        raise wrong_policy(policy.fast_lookups, policy.costs)

    def _cache(self, record: VaultRecord) -> None:
        encoded = (
            _HEADER.pack(record.vault_id.bytes, record.lookup, record.salt, record.scrypt_log2_n)
            + record.wrapped_key
        )
        try:
            self._client.set(self._names.vault_record(record.lookup), encoded, ex=CACHE_SECONDS)
        except RedisError as error:
            report(_log, "vault records are not cached", error)

    def _forget(self, lookup: bytes) -> None:
        try:
            # Not deleted: where the API has a user of its own, that user may delete nothing.
            self._client.set(self._names.vault_record(lookup), b"", px=1)
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


def _values(record: VaultRecord) -> tuple[uuid.UUID, bytes, bytes, int, bytes]:
    return (
        record.vault_id, record.lookup, record.salt, record.scrypt_log2_n, record.wrapped_key,
    )  # fmt: skip


def _decode(data: bytes) -> VaultRecord | None:
    """A record as `_cache` wrote it; None when it was cut short."""
    try:
        vault_id, lookup, salt, log2_n = _HEADER.unpack_from(data)
    except struct.error:
        return None
    return VaultRecord(uuid.UUID(bytes=vault_id), lookup, salt, log2_n, data[_HEADER.size :])
