"""The cost of a drain in statements, commands and bytes is bounded."""

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
MESSAGES = 3
"""One message with BEGIN, the offsets with the partition, and the sessions; one for the segments;
one with the new numbers and offsets, and COMMIT."""
STORED_BYTES = 3.6
"""Highest number of bytes of a reading of `thermometer` in Postgres, in a full segment."""
QUEUED_BYTES, QUEUED_ALONE_BYTES = 7.5, 240.0
"""Highest number of bytes of a reading in Redis: in a batch of 1000, and alone."""


@pytest.fixture
def connection(writer: Writer, sender: Sender) -> Connection:
    """The connection of the writer after first drains have created partitions and ledger rows."""
    sender.service.vault_restorer.close()  # the commands of its thread would be counted, too
    for _ in range(8):
        sender.backlog.append([sender.seal(b"first", [0], shard=shard) for shard in SHARDS])
        writer.drain.run(writer.postgres(), SHARDS)
    assert sender.waiting() == 0
    return writer.postgres()


def send(sender: Sender, vaults: int, entries: int, readings: int = 1) -> None:
    """Append entries of some vaults to all shards in turn."""
    for number in range(vaults):
        password, shard = b"%d" % number, number % len(SHARDS)
        for _ in range(entries):
            sender.backlog.append([sender.seal(password, range(readings), shard=shard)])


@pytest.mark.parametrize(
    ("vaults", "entries", "readings"),
    [(1, 1, 1), (8, 1, 1), (20, 1, 100), (20, 20, 1), (60, 5, 3)],
)
def test_statements_do_not_grow_with_readings(
    writer: Writer,
    sender: Sender,
    connection: Connection,
    vaults: int,
    entries: int,
    readings: int,
) -> None:
    """The number of shards does not matter either."""
    send(sender, vaults, entries, readings)
    with postgres_messages(connection) as counted:
        writer.drain.run(connection, SHARDS)
    assert sender.waiting() == 0
    assert counted == {"statements": MESSAGES, "round trips": MESSAGES}


def test_a_repeated_entry_is_not_written(
    writer: Writer, sender: Sender, connection: Connection
) -> None:
    entry = sender.seal(b"p", [0])
    sender.backlog.append([entry])
    writer.drain.run(connection, SHARDS)
    sender.backlog.append([entry])
    with postgres_messages(connection) as counted:
        writer.drain.run(connection, SHARDS)
    assert sender.waiting() == 0
    assert counted == {"statements": 2, "round trips": 2}  # the first one, and ROLLBACK


def test_an_empty_backlog_costs_no_statements(writer: Writer, connection: Connection) -> None:
    with postgres_messages(connection) as counted:
        writer.drain.run(connection, SHARDS)
    assert counted == {"statements": 0, "round trips": 0}


def drain_commands(writer: Writer, sender: Sender) -> "Counter[str]":
    """Drain all shards and return the Redis commands of the drain."""
    with redis_commands(sender.redis) as counted:
        writer.drain.run(writer.postgres(), SHARDS)
    assert sender.waiting() == 0
    return counted


DRAIN_COMMANDS = {
    # Read: the sizes of the shards, and the entries.
    "hmget": 1 + 1 + len(SHARDS), "xlen": len(SHARDS), "time": 2, "xrange": 2 * len(SHARDS),
    # Remove: the counters of all shards in one command each; the last entry is read once more.
    "evalsha": 2, "xtrim": len(SHARDS), "hincrby": 1, "hset": 1 + len(SHARDS),
    # The hot window: a cover of each shard, four commands per segment.
    "set": len(SHARDS), "zadd": len(SHARDS), "zremrangebyscore": len(SHARDS), "expire": len(SHARDS),
}  # fmt: skip
"""Redis commands of a drain of all shards, with a vault in each."""


@pytest.mark.usefixtures("connection")
@pytest.mark.parametrize(("entries", "readings"), [(1, 1), (10, 1), (10, 50), (60, 1)])
def test_commands_do_not_grow_with_entries(
    writer: Writer, sender: Sender, entries: int, readings: int
) -> None:
    send(sender, 8, entries, readings)
    counted = drain_commands(writer, sender)
    counted["time"] = min(counted["time"], 2)  # one more for the rate of drains
    assert counted == DRAIN_COMMANDS


@pytest.mark.usefixtures("connection")
def test_a_drain_needs_four_round_trips(
    writer: Writer, sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two to read, one for the hot window, one to remove."""
    send(sender, 8, 60)
    pool = writer.redis.connection_pool
    get_connection, taken = pool.get_connection, []

    def take() -> object:
        taken.append(get_connection())
        return taken[-1]

    monkeypatch.setattr(pool, "get_connection", take)
    writer.drain.run(writer.postgres(), SHARDS)
    assert len(taken) == 4


def thermometer(count: int) -> list[dict[str, dict[str, object]]]:
    """Return readings of a device: about a second apart, with two decimals."""
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
    """Return the bytes of all streams in the memory of Redis."""
    sizes = (sender.redis.memory_usage(KEYS.stream(shard), samples=0) for shard in SHARDS)
    return float(sum(size or 0 for size in sizes))


def test_bytes_of_readings_in_batches_are_bounded(
    client: FlaskClient, writer: Writer, sender: Sender
) -> None:
    """The device sends batches of 1000; the writer stores segments of 10,000."""
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


def test_bytes_of_single_readings_are_bounded(client: FlaskClient, sender: Sender) -> None:
    rows = thermometer(1000)
    for each in rows:
        put(client, each)
    queued = queued_bytes(sender) / len(rows)
    print(f"a reading alone takes {queued:.1f} bytes in Redis")
    assert queued < QUEUED_ALONE_BYTES
