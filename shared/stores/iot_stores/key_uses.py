"""How many stored items need each master key."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import LiteralString, cast

from redis import Redis

from iot_cipher.keyring import KeyId, key_id_of

from .cached_records import scan_records
from .postgres import Connection
from .stores import Stores
from .stream_entries import read_stream

_VAULTS: LiteralString = "SELECT substring(wrapped_key FOR 5), count(*) FROM vaults GROUP BY 1"
_AUDIT: LiteralString = "SELECT substring(sealed FOR 5), count(*) FROM audit_log GROUP BY 1"

KeyUses = Mapping[str, Counter[KeyId]]
"""For each kind of stored item, how many items need each master key."""


def count_uses(stores: Stores, connection: Connection) -> KeyUses:
    """Return, for each kind of stored item, how many items need each master key.

    Reads the backlog and scans all keys of Redis.

    Raises:
        psycopg.Error, RedisError: a store is away.
    """
    client, names = stores.redis, stores.names
    queued = [names.stream(shard) for shard in stores.backlog.shards()]
    # Meanwhile, writers move entries between the backlog, the held entries and the dead letters.
    # Held entries and dead letters are read before and after the backlog, so that an entry that
    # moves once is found.
    held, dead = _held(stores), _dead(stores)
    waiting = _entries(client, queued)
    held, dead = held | _held(stores), dead | _dead(stores)
    orders = cast("list[bytes]", client.lrange(names.compaction_orders, 0, -1))
    letter_orders = cast("dict[bytes, bytes]", client.hgetall(names.dead_letter_orders))
    cached = (record.master_key_id for record in scan_records(client, names))
    return {
        "vault records in Postgres": count_vaults(connection),
        "vault records in Redis": Counter(cached),
        "queued entries": waiting,
        "held entries": held,
        "compaction orders": Counter(map(key_id_of, orders)),
        "dead letters": dead,
        "dead letter orders": Counter(map(key_id_of, letter_orders.values())),
        "audit records": _grouped(connection, _AUDIT),
    }


def count_vaults(connection: Connection) -> Counter[KeyId]:
    """Return how many vault records in Postgres need each master key. Raises `psycopg.Error`."""
    return _grouped(connection, _VAULTS)


def _held(stores: Stores) -> Counter[KeyId]:
    held = [stores.names.held_entries(vault.bytes) for vault in stores.held_entries.vaults()]
    return _entries(stores.redis, held)


def _dead(stores: Stores) -> Counter[KeyId]:
    return Counter(key_id_of(letter.sealed) for letter in stores.dead_letters.all())


def _grouped(connection: Connection, statement: LiteralString) -> Counter[KeyId]:
    rows = cast("list[tuple[bytes, int]]", connection.execute(statement).fetchall())
    counts: Counter[KeyId] = Counter()
    for header, count in rows:
        counts[key_id_of(header)] += count
    return counts


def _entries(client: "Redis", streams: Iterable[str]) -> Counter[KeyId]:
    return Counter(key_id_of(sealed) for stream in streams for sealed in _sealed(client, stream))


def _sealed(client: "Redis", stream: str) -> Iterator[bytes]:
    for _, fields in read_stream(client, stream):
        yield fields.get(b"e", b"")
