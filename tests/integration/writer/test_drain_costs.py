"""What a drain costs in statements, commands and bytes, however much it stores."""

import json
import random
from collections import Counter

import pytest
from flask.testing import FlaskClient

from integration.writer.sending import Sender
from iot_stores.postgres import Connection
from iot_writer.writer import Writer
from support.counting import postgres_messages, redis_commands
from support.draining import drain_all
from support.keys import KEYS

SHARDS = range(8)
STATEMENTS = 8
"""BEGIN, COMMIT, and one each for the partition, the offsets, the sessions, the segments, the
sessions' numbers and the offsets' new place."""
PAGE = 128
"""Entries that are read in a round trip."""
STORED_BYTES = 3.6
"""A reading in Postgres, of those of `thermometer`, at most: its payload in a full segment."""
QUEUED_BYTES, QUEUED_ALONE_BYTES = 7.5, 240.0
"""A reading in Redis, at most: sent with 999 others, and alone."""


@pytest.fixture
def connection(writer: Writer, sender: Sender) -> Connection:
    """The writer's, after its first drains: the partitions and the ledger's rows are there."""
    for _ in range(8):
        sender.backlog.append([sender.seal(b"first", [0], shard=shard) for shard in SHARDS])
        writer.drain.run(writer.postgres(), SHARDS)
    assert sender.waiting() == 0
    return writer.postgres()


def send(sender: Sender, vaults: int, entries: int, readings: int = 1) -> None:
    """Entries of some vaults, in all shards in turn."""
    for number in range(vaults):
        password, shard = b"%d" % number, number % len(SHARDS)
        for _ in range(entries):
            sender.backlog.append([sender.seal(password, range(readings), shard=shard)])


@pytest.mark.parametrize(
    ("vaults", "entries", "readings"),
    [(1, 1, 1), (8, 1, 1), (20, 1, 100), (20, 20, 1), (60, 5, 3)],
)
def test_statements_do_not_grow_with_what_is_stored(
    writer: Writer,
    sender: Sender,
    connection: Connection,
    vaults: int,
    entries: int,
    readings: int,
) -> None:
    """Nor with the number of shards it is in."""
    send(sender, vaults, entries, readings)
    with postgres_messages(connection) as counted:
        writer.drain.run(connection, SHARDS)
    assert sender.waiting() == 0
    assert counted == {"statements": STATEMENTS, "round trips": STATEMENTS}


def test_what_is_repeated_is_not_written(
    writer: Writer, sender: Sender, connection: Connection
) -> None:
    entry = sender.seal(b"p", [0])
    sender.backlog.append([entry])
    writer.drain.run(connection, SHARDS)
    sender.backlog.append([entry])
    with postgres_messages(connection) as counted:
        writer.drain.run(connection, SHARDS)
    assert sender.waiting() == 0
    assert counted["statements"] < STATEMENTS - 1


def test_what_waits_nowhere_costs_postgres_nothing(writer: Writer, connection: Connection) -> None:
    with postgres_messages(connection) as counted:
        writer.drain.run(connection, SHARDS)
    assert counted == {"statements": 0, "round trips": 0}


def drain_commands(writer: Writer, sender: Sender) -> "Counter[str]":
    """What a drain of all shards does in Redis."""
    with redis_commands(sender.redis) as counted:
        writer.drain.run(writer.postgres(), SHARDS)
    assert sender.waiting() == 0
    return counted


@pytest.mark.usefixtures("connection")
def test_commands_do_not_grow_with_readings(writer: Writer, sender: Sender) -> None:
    send(sender, 8, 10)
    few = drain_commands(writer, sender)
    print(f"a drain of all shards with 10 entries each: {dict(few)}")
    send(sender, 8, 10, 50)
    many = drain_commands(writer, sender)
    assert few["xrange"] == many["xrange"] == len(SHARDS)
    # What is measured once a second is written then.
    for counted in (few, many):
        del counted["hset"]
    assert few == many
    assert few["evalsha"] <= 2 * len(SHARDS) + 1
    assert few["xtrim"] == len(SHARDS)


@pytest.mark.usefixtures("connection")
def test_entries_are_read_in_pages(writer: Writer, sender: Sender) -> None:
    send(sender, 8, 1)
    before = drain_commands(writer, sender)
    for _ in range(2 * PAGE):
        sender.backlog.append([sender.seal(b"p", [0], shard=0)])
    counted = drain_commands(writer, sender)
    assert counted["xrange"] - before["xrange"] == 2
    assert sum(counted.values()) - sum(before.values()) < 10


def thermometer(count: int) -> list[dict[str, dict[str, object]]]:
    """Readings as a device sends them: a second or so apart, two decimals."""
    chance = random.Random(5)
    moment, celsius, rows = 1_700_000_000_000_000, 20.0, []
    for _ in range(count):
        moment += 1_000_000 + chance.randrange(-2000, 2000)
        celsius += chance.gauss(0, 0.05)
        data = {"db_password": "p", "relative_time": moment, "interrogator_time": moment}
        rows.append({"data": {**data, "freeform": f"{celsius:.2f}"}})
    return rows


def put(client: FlaskClient, rows: object) -> None:
    answer = client.put("/api/iot", data=json.dumps(rows), content_type="application/json")
    assert answer.status_code == 201


def queued_bytes(sender: Sender) -> float:
    """What all streams hold in the memory of Redis."""
    sizes = (sender.redis.memory_usage(KEYS.stream(shard), samples=0) for shard in SHARDS)
    return float(sum(size or 0 for size in sizes))


def test_bytes_of_readings_in_batches(client: FlaskClient, writer: Writer, sender: Sender) -> None:
    """Sent by thousands, stored in segments of ten thousand."""
    rows = thermometer(10_000)
    for start in range(0, len(rows), 1000):
        put(client, rows[start : start + 1000])
    queued = queued_bytes(sender) / len(rows)
    drain_all(writer)
    found = writer.postgres().execute(
        "SELECT count(*), sum(count), sum(octet_length(payload)) FROM segments"
    )
    segments, count, size = (int(str(each)) for each in found.fetchone() or ())
    print(f"a reading takes {queued:.1f} bytes in Redis, {size / count:.2f} in Postgres")
    assert (segments, count) == (1, 10_000)
    assert queued < QUEUED_BYTES
    assert size / count < STORED_BYTES


def test_bytes_of_readings_that_come_alone(client: FlaskClient, sender: Sender) -> None:
    rows = thermometer(1000)
    for each in rows:
        put(client, each)
    queued = queued_bytes(sender) / len(rows)
    print(f"a reading alone takes {queued:.1f} bytes in Redis")
    assert queued < QUEUED_ALONE_BYTES
