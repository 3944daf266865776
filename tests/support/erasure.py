"""Search Postgres and Redis for remaining data of an erased vault."""

import uuid
from collections.abc import Callable, Iterable
from typing import Any, cast

import psycopg
from psycopg import sql
from redis import Redis

TABLES = """
    SELECT nspname, relname FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
    WHERE relkind = 'r' AND nspname NOT IN ('pg_catalog', 'information_schema')
"""
COUNT = "SELECT count(*) FROM ONLY {table} AS t WHERE t::text ~ %s"
SETTLED = "UPDATE erased_vaults SET erased_at = erased_at - interval '2 minutes'"
"""Statement that makes all erasures two minutes older, old enough for their last deletion."""


def rows_with(postgres: "psycopg.Connection[Any]", vault_id: uuid.UUID) -> dict[str, int]:
    """Return the number of rows that name a vault, by table."""
    found = {}
    pattern = f"{vault_id}|{vault_id.hex}"
    for schema, table in postgres.execute(TABLES).fetchall():
        statement = sql.SQL(COUNT).format(table=sql.Identifier(schema, table))
        row = postgres.execute(statement, (pattern,)).fetchone()
        if row is not None and row[0]:
            found[table] = row[0]
    return found


def keys_with(redis: "Redis", vault_id: uuid.UUID) -> set[str]:
    """Return the names of all keys in Redis that name a vault, in the name or the value."""
    needles = (vault_id.bytes, vault_id.hex.encode(), str(vault_id).encode())
    return {
        key.decode(errors="replace")
        for key in cast("list[bytes]", redis.keys())
        if any(needle in part for part in (key, *_values(redis, key)) for needle in needles)
    }


def _values(redis: "Redis", key: bytes) -> Iterable[bytes]:
    readers: dict[bytes, Callable[[], Any]] = {
        b"string": lambda: [redis.get(key) or b""],
        b"hash": lambda: [part for pair in redis.hgetall(key).items() for part in pair],
        b"list": lambda: redis.lrange(key, 0, -1),
        b"set": lambda: redis.smembers(key),
        b"zset": lambda: redis.zrange(key, 0, -1),
        b"stream": lambda: _stream_parts(redis, key),
        b"none": list,  # it has expired
    }
    return cast("Iterable[bytes]", readers[cast("bytes", redis.type(key))]())


def _stream_parts(redis: "Redis", key: bytes) -> list[bytes]:
    entries = cast("list[tuple[bytes, dict[bytes, bytes]]]", redis.xrange(key))
    return [part for _, fields in entries for pair in fields.items() for part in pair]
