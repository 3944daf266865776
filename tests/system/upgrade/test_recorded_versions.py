"""This version reads, drains and continues the stores of earlier versions automatically."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any, cast

import psycopg
import pytest
from flask.testing import FlaskClient
from redis import Redis

from iot_api.app import create_app
from iot_cipher.encryption import Opener, decode_entry
from iot_cipher.keyring import KeyringFile
from iot_models.settings import Settings
from iot_stores.backlog import Backlog
from iot_stores.redis_client import connect_redis
from iot_writer.writer import Writer
from support.draining import drain_all, read_waiting
from support.keys import KEYS
from support.recorded_version import RecordedVersion
from support.stack import MakeStack
from support.waiting import wait_until

Row = dict[str, Any]
Read = Callable[[str], list[Row]]

SMALL = "many small segments"

pytestmark = pytest.mark.parametrize("recorded", ["version_0_1", "schema_0004"], indirect=True)


@pytest.fixture
def redis(settings: Settings) -> Iterator["Redis"]:
    """A client of the restored Redis."""
    with connect_redis(settings) as client:
        yield client


def reader(client: FlaskClient) -> Read:
    """A function that reads from the API in this process."""

    def read(password: str) -> list[Row]:
        answer = client.post("/api/iot", json={"data": {"db_password": password}})
        assert answer.status_code == 200, answer.data
        return cast("list[Row]", json.loads(answer.data)["data"])

    return read


def check_all(recorded: RecordedVersion, read: Read) -> None:
    """Check that the readings of every password are complete, once, and in order."""
    for password, expected in recorded.expected["passwords"].items():
        check(read(password), expected)


def check(rows: list[Row], expected: list[list[Any]]) -> None:
    """Check that stored readings keep their ids, and those of the backlog get unique ids."""
    fields = ("absolute_timestamp", "freeform", "interrogator_timestamp", "relative_timestamp")
    assert [[row[field] for field in fields] for row in rows] == [
        [absolute, freeform, interrogator, relative]
        for absolute, freeform, _, interrogator, relative in expected
    ]
    ids = [row["id"] for row in rows]
    assert len(set(ids)) == len(ids)
    assert all(
        known in {None, found} for (_, _, known, _, _), found in zip(expected, ids, strict=True)
    )


def waiting_entries(redis: "Redis", shards: int) -> int:
    """Return the number of entries in the backlog."""
    return sum(redis.xlen(KEYS.stream(shard)) for shard in range(shards))


def count_rows(settings: Settings, table: str) -> int:
    """Return the number of rows of a table."""
    with psycopg.connect(settings.postgres_url) as connection:
        query = psycopg.sql.SQL("SELECT count(*) FROM {}").format(psycopg.sql.Identifier(table))
        found = connection.execute(query).fetchone()
    return cast("tuple[int]", found)[0]


def test_restored_entries_are_sealed_now(
    recorded: RecordedVersion, settings: Settings, redis: "Redis"
) -> None:
    opener = Opener(KeyringFile(recorded.keyring_file).current)
    now = time.time() * 1000
    backlog = Backlog(redis, KEYS, shards=settings.shards, max_bytes=1)
    for shard in range(settings.shards):
        for waiting in read_waiting(backlog, shard):
            entry = decode_entry(opener.open(shard, waiting.sealed).content)
            assert now - 60_000 < entry.sealed_at <= now
            assert waiting.received < now - 60_000


def test_stored_readings_are_read_before_the_backlog_is_drained(
    recorded: RecordedVersion, client: FlaskClient
) -> None:
    read = reader(client)
    for password, expected in recorded.expected["passwords"].items():
        check(read(password), [row for row in expected if row[2] is not None])


def test_backlog_is_drained_once(
    recorded: RecordedVersion, client: FlaskClient, writer: Writer, redis: "Redis"
) -> None:
    assert waiting_entries(redis, writer.settings.shards) > 40
    drain_all(writer)
    assert waiting_entries(redis, writer.settings.shards) == 0
    assert int(redis.hget(KEYS.backlog_counters, "bytes") or 0) == 0
    assert redis.xlen(KEYS.dead_letters) == 1  # the recorded dead letter
    check_all(recorded, reader(client))


def repeat_requests(recorded: RecordedVersion, client: FlaskClient, path: str) -> None:
    """Repeat every recorded request, and check that its response is the recorded one."""
    for request in recorded.expected["requests"]:
        headers = {"Idempotency-Key": request["key"]}
        answer = client.put(path, json=request["body"], headers=headers)
        assert (answer.status_code, answer.text) == (201, request["answer"]), request["key"]
        assert answer.headers["Idempotent-Replayed"] == "true"


def test_repeated_requests_get_the_recorded_responses(
    recorded: RecordedVersion, client: FlaskClient, writer: Writer
) -> None:
    repeat_requests(recorded, client, "/api/iot")
    drain_all(writer)
    # The receipts of version 0.1 name entries that are now stored.
    repeat_requests(recorded, client, "/api/iot?ack=stored")
    drain_all(writer)
    check_all(recorded, reader(client))


def test_maxtime_is_the_recorded_one(
    recorded: RecordedVersion, client: FlaskClient, writer: Writer
) -> None:
    drain_all(writer)
    maximum = recorded.expected["max_relative_timestamp"]
    answer = client.get("/api/iot/maxtime")
    assert json.loads(answer.data) == {"data": [{"max_relative_timestamp": maximum}]}
    for password, rows in recorded.expected["passwords"].items():
        answer = client.post("/api/iot/maxtime", json={"data": {"db_password": password}})
        maximum = max(row[4] for row in rows)
        assert json.loads(answer.data) == {"data": [{"max_relative_timestamp": maximum}]}


def test_small_segments_are_merged(
    recorded: RecordedVersion, client: FlaskClient, writer: Writer, redis: "Redis"
) -> None:
    before = count_rows(writer.settings, "segments")
    for key in redis.scan_iter("iot:compaction:looked*"):
        redis.delete(key)
    check_read = reader(client)
    check_read(SMALL)  # opens the vault, which orders the compaction
    wait_until(lambda: redis.llen(KEYS.compaction_orders), what="an order")
    writer.compaction.run(writer.postgres())
    assert count_rows(writer.settings, "segments") < before - 60
    drain_all(writer)
    check_all(recorded, check_read)


def test_each_server_drains_the_backlog(
    recorded: RecordedVersion, settings_of_server: Settings
) -> None:
    app, writer = create_app(settings_of_server), Writer(settings_of_server)
    with closing(writer), closing(app.extensions["iot"]):
        drain_all(writer)
        repeat_requests(recorded, app.test_client(), "/api/iot?ack=stored")
        check_all(recorded, reader(app.test_client()))


def test_unknown_password_finds_nothing(client: FlaskClient) -> None:
    assert reader(client)("not one of them") == []


@pytest.mark.parametrize("vault_cache_lost", [False, True])
def test_running_service_continues(
    recorded: RecordedVersion,
    make_stack: MakeStack,
    settings: Settings,
    redis: "Redis",
    vault_cache_lost: bool,
) -> None:
    """API and writer processes drain the backlog and continue with new readings.

    There is one API worker, and the second case uses two passwords: opening a recorded vault takes
    half a second of CPU time.
    """
    stack = make_stack({"IOT_API_WORKERS": "1"})
    passwords = recorded.expected["passwords"]
    recorded_vaults = len(passwords)
    if vault_cache_lost:
        redis.delete(*redis.keys("iot:vault:*"))
        passwords = {each: passwords[each] for each in ("big batches", "cost 10")}
    for number, password in enumerate(passwords):
        data = {"db_password": password, "interrogator_time": 2 * 10**15, "freeform": number}
        assert stack.put({"data": data}).status == 201
    wait_until(lambda: not waiting_entries(redis, settings.shards), what="an empty backlog")
    for number, (password, expected) in enumerate(passwords.items()):
        *old, new = stack.read(password)
        check(old, expected)
        assert new["freeform"] == str(number)
    assert count_rows(settings, "vaults") == recorded_vaults
