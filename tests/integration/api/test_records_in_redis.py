"""A reading is acknowledged only when the vault record is in Redis as well as in Postgres.

Without the record in Redis, readings would be held forever if Postgres loses the row and the
process ends.
"""

import dataclasses
from collections.abc import Iterator
from urllib.parse import urlsplit

import psycopg
import pytest
from redis import Redis

from integration.api.asking import Api, assert_error, row
from integration.api.conftest import MakeApi
from integration.api.test_vault_lookups import renew_at_next_use
from iot_models.settings import Settings
from iot_stores.cached_records import CACHE_SECONDS
from iot_tools.local.postgres_server import PostgresServer
from iot_tools.local.redis_server import RedisServer
from iot_writer.maintenance import sweep
from iot_writer.writer import Writer
from support.draining import drain_all
from support.keys import KEYS

COST = 11
"""scrypt cost of a lookup, above the cost in the settings of the tests."""


@pytest.fixture
def admin(own_redis: RedisServer) -> Iterator["Redis"]:
    """An administrator's client of the separate Redis."""
    with Redis.from_url(own_redis.url) as client:
        yield client


@pytest.fixture
def limited_url(own_redis: RedisServer, admin: "Redis") -> str:
    """The URL of a user of that Redis whose rights a test reduces."""
    limit(admin)
    url = urlsplit(own_redis.url)
    return url._replace(netloc=f"limited:any@{url.hostname}:{url.port}").geturl()


def limit(admin: "Redis", *refused: str, keys: tuple[str, ...] = ("*",)) -> None:
    """Grant the user these keys and all commands except the refused commands."""
    admin.acl_setuser(
        "limited", enabled=True, nopass=True, reset_keys=True, keys=list(keys),
        categories=["+@all"], commands=[f"-{each}" for each in refused],
    )  # fmt: skip


def records(admin: "Redis") -> list[bytes]:
    """Return the names of the vault records in Redis."""
    return list(admin.scan_iter(KEYS.all_vault_records))


def appended(admin: "Redis") -> int:
    """Return the number of waiting entries."""
    return sum(admin.xlen(name) for name in admin.scan_iter("iot:ingest:*"))


def check_readings_outlive(
    api: Api, other: Api, settings: Settings, redis_url: str, postgres: psycopg.Connection
) -> None:
    """Delete the vault, end the process and check that all acknowledged readings are stored.

    Another process must find the vault record in Redis.
    """
    api.service.close()
    assert postgres.execute("DELETE FROM vaults").rowcount == 1
    writer = Writer(dataclasses.replace(settings, redis_url=redis_url))
    try:
        drain_all(writer)
        assert len(writer.held.vaults()) == 1
        assert other.put(row(freeform=2)).status_code == 201
        sweep.release_held(writer.held, writer.postgres)
        drain_all(writer)
        assert writer.held.vaults() == {}, "readings are still held"
        assert sorted(each["freeform"] for each in other.read()) == ["1", "2"]
    finally:
        writer.close()


def test_a_vault_created_while_redis_is_full(
    make_api: MakeApi,
    settings: Settings,
    own_redis: RedisServer,
    admin: "Redis",
    postgres: psycopg.Connection,
) -> None:
    api, other = (make_api(redis_url=own_redis.url) for _ in range(2))
    assert api.ask("GET", "/readyz").status_code == 200
    admin.config_set("maxmemory", 1)
    refused = assert_error(api.put(row(freeform=1)), 503, "unavailable")
    assert refused["error"] == "Redis can't serve now (OOM); try again"
    assert postgres.execute("SELECT count(*) FROM vaults").fetchone() == (1,)
    admin.config_set("maxmemory", 0)
    assert api.put(row(freeform=1)).status_code == 201
    assert len(records(admin)) == 1
    check_readings_outlive(api, other, settings, own_redis.url, postgres)


def test_a_vault_opened_for_reading_while_redis_is_full(
    make_api: MakeApi,
    settings: Settings,
    own_redis: RedisServer,
    admin: "Redis",
    postgres: psycopg.Connection,
) -> None:
    """Reads need no record in Redis; the first PUT after the reads stores the record."""
    created = make_api(redis_url=own_redis.url)
    assert created.put(row(freeform=0)).status_code == 201
    admin.flushall()
    api, other = (make_api(redis_url=own_redis.url) for _ in range(2))
    assert api.ask("GET", "/readyz").status_code == 200
    admin.config_set("maxmemory", 1)
    assert api.read() == []
    admin.config_set("maxmemory", 0)
    assert records(admin) == []
    assert api.put(row(freeform=1)).status_code == 201
    check_readings_outlive(api, other, settings, own_redis.url, postgres)


@pytest.mark.parametrize("opened", [False, True])
def test_no_reading_is_acknowledged_while_redis_refuses_the_record(
    make_api: MakeApi, limited_url: str, admin: "Redis", opened: bool
) -> None:
    """The append script needs no SET."""
    api = make_api(redis_url=limited_url)
    if opened:
        assert api.put(row()).status_code == 201
        renew_at_next_use(api)
    assert api.put(row("another")).status_code == 201
    before = appended(admin)
    limit(admin, "set")
    for _ in range(2):
        refused = assert_error(api.put(row()), 503, "unavailable")
        assert refused["error"] == "Redis can't serve now (NOPERM); try again"
    assert api.put(row("another")).status_code == 201
    assert api.post().status_code == 200
    assert appended(admin) == before + 1
    limit(admin)
    assert api.put(row()).status_code == 201
    assert len(records(admin)) == 2


def test_the_record_of_a_vault_in_use_does_not_expire(
    make_api: MakeApi, own_redis: RedisServer, admin: "Redis"
) -> None:
    api = make_api(redis_url=own_redis.url)
    assert api.put(row()).status_code == 201
    (record,) = records(admin)
    admin.expire(record, 600)
    renew_at_next_use(api)
    assert api.put(row()).status_code == 201
    assert admin.ttl(record) > CACHE_SECONDS - 60


def test_the_record_is_stored_again_after_redis_came_back_empty(
    make_api: MakeApi, own_redis: RedisServer, admin: "Redis"
) -> None:
    """The record is stored before the renewal, which is minutes later."""
    api = make_api(redis_url=own_redis.url)
    watch = api.service.stores.watch
    assert api.put(row()).status_code == 201
    (record,) = records(admin)
    admin.flushall()
    admin.bgrewriteaof()
    own_redis.stop()
    own_redis.start()
    watch.check()  # the thread of the watch does this every second
    assert api.put(row()).status_code == 201
    assert records(admin) == [record]


def test_the_record_is_stored_again_while_postgres_is_away(
    make_api: MakeApi, own_redis: RedisServer, admin: "Redis", own_postgres: PostgresServer
) -> None:
    api = make_api(redis_url=own_redis.url, postgres_url=own_postgres.url)
    assert api.put(row()).status_code == 201
    (record,) = records(admin)
    api.app.extensions[
        "iot"
    ].vault_restorer.close()  # the restorer would also store the record, but later
    admin.delete(record)
    own_postgres.stop()
    renew_at_next_use(api)
    assert api.put(row()).status_code == 201
    assert records(admin) == [record]


def test_a_moved_vault_keeps_its_old_record_until_redis_has_the_new_one(
    make_api: MakeApi, limited_url: str, admin: "Redis", postgres: psycopg.Connection
) -> None:
    assert make_api(redis_url=limited_url).put(row()).status_code == 201
    (old,) = records(admin)
    limit(admin, keys=("iot:[^v]*", "rq:*", old.decode()))
    api = make_api(redis_url=limited_url, scrypt_log2_n=COST)
    assert api.post().status_code == 200
    assert postgres.execute("SELECT scrypt_log2_n FROM vaults").fetchall() == [(COST,)]
    assert records(admin) == [old]
    assert admin.strlen(old) > 0
    limit(admin)
    assert api.put(row()).status_code == 201
    assert len(records(admin)) == 2
