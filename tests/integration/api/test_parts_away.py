"""With Redis or Postgres away, the API continues where possible and reports the outage."""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from redis import Redis

from integration.api.asking import Api, assert_error, row, sample
from integration.api.conftest import MakeApi
from iot_models.settings import Settings
from iot_stores import postgres as postgres_connections
from iot_stores.postgres import SCHEMA_REVISION
from iot_tools.local.postgres_server import PostgresServer
from iot_tools.local.redis_server import RedisServer
from iot_writer.writer import Writer
from support.draining import drain_all
from support.waiting import wait_until


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the waits for a store, because the store stays away in these tests."""
    monkeypatch.setattr(postgres_connections, "WAIT_SECONDS", 0.3)


@contextmanager
def writer_on(settings: Settings, **changes: Any) -> Iterator[Writer]:
    """A writer on the stores of the test."""
    made = Writer(dataclasses.replace(settings, **changes))
    try:
        yield made
    finally:
        made.close()


def test_redis_away(make_api: MakeApi, settings: Settings, own_redis: RedisServer) -> None:
    api = make_api(redis_url=own_redis.url)
    assert api.put(row(freeform="before")).status_code == 201
    with writer_on(settings, redis_url=own_redis.url) as writer:
        drain_all(writer)
    assert api.put(row(freeform="waits")).status_code == 201
    own_redis.kill()
    wait_until(lambda: not own_redis.running)

    for password in ("p", "a new one"):
        answer = api.put(row(password, freeform="refused"))
        assert assert_error(answer, 503, "unavailable")["error"] == "Redis is away; try again"
    assert_not_ready(api, redis="away", postgres="ok")
    # The history and the last seconds come from Postgres.
    assert [each["freeform"] for each in api.read()] == ['"before"']
    assert [each["freeform"] for each in api.read("/seconds/60")] == ['"before"']
    assert api.read("/last/5") == api.read()
    assert api.read(password="unknown") == []
    assert api.post("/api/iot/maxtime").status_code == 200
    assert api.ask("GET", "/api/audit").status_code == 200

    own_redis.start()
    assert api.put(row(freeform="after")).status_code == 201
    assert api.ask("GET", "/readyz").status_code == 200
    with writer_on(settings, redis_url=own_redis.url) as writer:
        drain_all(writer)
    assert [each["freeform"] for each in api.read()] == ['"before"', '"waits"', '"after"']


def test_another_process_opens_a_vault_without_redis(
    make_api: MakeApi, settings: Settings, own_redis: RedisServer
) -> None:
    """Vault records are stored in Postgres; Redis only caches the records."""
    make_api(redis_url=own_redis.url).put(row())
    with writer_on(settings, redis_url=own_redis.url) as writer:
        drain_all(writer)
    own_redis.kill()
    assert len(make_api(redis_url=own_redis.url).read()) == 1


def test_postgres_away(
    make_api: MakeApi, settings: Settings, redis: "Redis", own_postgres: PostgresServer
) -> None:
    api, other = (make_api(postgres_url=own_postgres.url) for _ in range(2))
    assert api.ask("GET", "/readyz").status_code == 200
    assert api.put(row(freeform="before")).status_code == 201
    with writer_on(settings, postgres_url=own_postgres.url) as writer:
        drain_all(writer)
    own_postgres.stop()

    # A vault in the cache of this process or of Redis accepts readings.
    assert api.put(row(freeform="held")).status_code == 201
    assert other.put(row(freeform="from Redis's record")).status_code == 201
    assert api.ask("GET", "/readyz").status_code == 200
    assert_not_ready(
        other, redis="ok", postgres="away"
    )  # this process has not checked the schema yet
    # The hot window answers.
    hot = sample("iot_reads_total", source="hot_window")
    assert [each["freeform"] for each in other.read("/seconds/60")] == ['"before"']
    assert sample("iot_reads_total", source="hot_window") == hot + 1
    # Reads of the history and new vaults get an error.
    asked = [
        api.post(),
        api.post("/api/iot/5"),
        api.post("/api/iot/last/5"),
        api.post("/api/iot/seconds/4000"),
        api.post("/api/iot/maxtime"),
        api.ask("GET", "/api/iot/maxtime"),
        api.ask("GET", "/api/audit"),
        api.put(row("a new one")),
        api.put([row(freeform="refused"), row("a new one")]),
        api.post(password="unknown"),
    ]
    for answer in asked:
        assert assert_error(answer, 503, "unavailable")["error"] == "Postgres is away; try again"

    own_postgres.start()
    wait_until(lambda: other.ask("GET", "/readyz").status_code == 200)
    wait_until(lambda: api.put(row("a new one")).status_code == 201)
    with writer_on(settings, postgres_url=own_postgres.url) as writer:
        drain_all(writer)
    texts = [each["freeform"] for each in api.read()]
    assert texts == ['"before"', '"held"', '"from Redis\'s record"']

    # An incomplete answer becomes an error, never a shorter answer.
    redis.delete(*redis.keys("iot:hot:segment:*"))
    own_postgres.stop()
    assert_error(api.post("/api/iot/seconds/60"), 503, "unavailable")


def test_a_database_without_a_schema_is_503(
    make_api: MakeApi, postgres: psycopg.Connection
) -> None:
    """The error says what to do, and no reading is acknowledged."""
    postgres.execute("CREATE DATABASE bare")
    try:
        api = make_api(postgres_url=make_conninfo(postgres.info.dsn, dbname="bare"))
        told = assert_not_ready(api, redis="ok")
        assert "run `iot-sensor migrate`" in told["postgres"]
        assert api.ask("GET", "/healthz").get_json() == {"status": "ok"}
    finally:
        postgres.execute("DROP DATABASE bare WITH (FORCE)")


def test_another_schema_version_is_503(api: Api, postgres: psycopg.Connection) -> None:
    assert api.ask("GET", "/readyz").get_json() == {
        "status": "ready",
        "redis": "ok",
        "postgres": "ok",
    }
    postgres.execute("UPDATE alembic_version SET version_num = '9999'")
    told = assert_not_ready(api, redis="ok")
    assert "is 9999" in told["postgres"]
    assert "run a newer version" in told["postgres"]


def test_the_next_schema_version_is_served(api: Api, postgres: psycopg.Connection) -> None:
    """Pods of this version continue during the rollout of the next version."""
    postgres.execute("UPDATE alembic_version SET version_num = %s", (_next_revision(),))
    assert api.ask("GET", "/readyz").get_json()["status"] == "ready"


def _next_revision() -> str:
    return f"{int(SCHEMA_REVISION) + 1:04}"


def assert_not_ready(api: Api, **parts: str) -> dict[str, str]:
    answer = api.ask("GET", "/readyz")
    told: dict[str, str] = answer.get_json()
    assert (answer.status_code, told["status"]) == (503, "not ready")
    assert answer.headers["Retry-After"] == "1"
    assert told.items() >= parts.items()
    assert api.ask("GET", "/healthz").status_code == 200
    return told
