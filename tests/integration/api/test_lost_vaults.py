"""Postgres loses a vault, and another process looks its password up. No reading is lost."""

import dataclasses
from collections.abc import Iterator

import psycopg
import pytest
from redis import Redis

from integration.api.asking import Api, assert_error, row
from integration.api.conftest import MakeApi
from integration.api.test_records_in_redis import admin, limit, limited_url
from integration.api.test_vault_lookups import renew_at_next_use
from iot_api.vaults.restorer import GIVEN_UP_SECONDS
from iot_models.settings import Settings
from iot_stores.cached_records import HIDE_SECONDS
from iot_stores.password_changes import PasswordChange, PasswordChanges
from iot_tools.local.redis_server import RedisServer
from iot_writer.maintenance import sweep
from iot_writer.writer import Writer
from support.draining import drain_all
from support.keys import KEYS

__all__ = ["admin", "limited_url"]


@pytest.fixture
def writer(settings: Settings, own_redis: RedisServer) -> Iterator[Writer]:
    """A writer that uses the separate Redis."""
    made = Writer(dataclasses.replace(settings, redis_url=own_redis.url))
    yield made
    made.close()


def lose_vaults(postgres: psycopg.Connection) -> None:
    """Delete all vaults, as a restore of Postgres to an earlier moment does."""
    assert postgres.execute("DELETE FROM vaults").rowcount > 0


def check_all_readable(api: Api, writer: Writer, expected: list[int]) -> None:
    """Store everything that waits, and compare the readings with the expected ones."""
    drain_all(writer)
    api.service.vault_restorer.check()
    sweep.release_held(writer.held, writer.postgres)
    drain_all(writer)
    assert writer.held.vaults() == {}, "readings are held that no password can open"
    answer = api.post()
    assert [int(each["freeform"]) for each in answer.get_json()["data"]] == expected


def test_no_vault_is_created_while_only_redis_may_know_the_password(
    make_api: MakeApi, limited_url: str, own_redis: RedisServer, admin: "Redis",
    postgres: psycopg.Connection, writer: Writer,
) -> None:  # fmt: skip
    first = make_api(redis_url=own_redis.url)
    assert first.put(row(freeform=1)).status_code == 201
    other = make_api(redis_url=limited_url)
    lose_vaults(postgres)
    limit(admin, "mget")
    assert_error(other.put(row(freeform=2)), 503, "unavailable")
    assert postgres.execute("SELECT count(*) FROM vaults").fetchone() == (0,)
    limit(admin)
    assert other.put(row(freeform=2)).status_code == 201
    assert first.put(row(freeform=3)).status_code == 201
    check_all_readable(other, writer, [1, 2, 3])


def test_a_vault_of_a_failed_request_does_not_replace_the_one_in_redis(
    make_api: MakeApi, limited_url: str, own_redis: RedisServer, admin: "Redis",
    postgres: psycopg.Connection, writer: Writer,
) -> None:  # fmt: skip
    """The first process created a vault, and could not store its record in Redis."""
    first = make_api(redis_url=limited_url)
    assert first.put(row("another")).status_code == 201
    limit(admin, "set")
    assert_error(first.put(row(freeform=0)), 503, "unavailable")
    lose_vaults(postgres)
    other = make_api(redis_url=own_redis.url)
    assert other.put(row(freeform=1)).status_code == 201
    limit(admin)
    names = admin.keys(KEYS.all_vault_records)
    before = admin.mget(names)
    assert first.put(row(freeform=2)).status_code == 201
    assert admin.mget(names) == before
    check_all_readable(first, writer, [1, 2])


def test_a_vault_that_postgres_has_replaces_another_one_in_redis(
    make_api: MakeApi, own_redis: RedisServer, admin: "Redis",
    postgres: psycopg.Connection, writer: Writer,
) -> None:  # fmt: skip
    """The record of the vault that Postgres lost is kept: it may be the only copy."""
    api = make_api(redis_url=own_redis.url)
    assert api.put(row(freeform=1)).status_code == 201
    (name,) = admin.keys(KEYS.all_vault_records)
    (lost,) = admin.mget([name])
    assert isinstance(lost, bytes)
    lose_vaults(postgres)
    admin.delete(name)
    standing = make_api(redis_url=own_redis.url)
    assert standing.put(row(freeform=2)).status_code == 201
    admin.set(name, lost)
    api.service.vault_restorer.records.extend_expiry(api.service.vault_restorer.cache.records())
    standing.service.vault_restorer.cache.forget_redis()
    assert standing.put(row(freeform=3)).status_code == 201
    assert admin.get(name) != lost
    assert admin.get(KEYS.replaced_vault_record(lost[:16])) == lost
    drain_all(writer)
    assert [int(each["freeform"]) for each in standing.post().get_json()["data"]] == [2, 3]


def test_a_vault_whose_change_of_password_failed_is_restored(
    make_api: MakeApi, own_redis: RedisServer, admin: "Redis",
    postgres: psycopg.Connection, writer: Writer,
) -> None:  # fmt: skip
    """The failed change has hidden the record in Redis."""
    first = make_api(redis_url=own_redis.url)
    assert first.put(row(freeform=1)).status_code == 201
    record = first.service.vaults.cache.records()[0]
    failed = PasswordChange(record.vault_id, bytes(32))
    PasswordChanges(admin, KEYS).announce(failed, [record.lookup])
    hiding = KEYS.changed_lookup(record.lookup)
    first.end_background_threads()
    for number, seconds in enumerate([HIDE_SECONDS, HIDE_SECONDS - GIVEN_UP_SECONDS - 1], 2):
        admin.expire(hiding, seconds)
        renew_at_next_use(first)
        assert first.put(row(freeform=number)).status_code == 201
        first.service.vault_restorer.check()
        assert admin.pttl(hiding) > 1 or number == 3
    lose_vaults(postgres)
    other = make_api(redis_url=own_redis.url)
    assert other.put(row(freeform=4)).status_code == 201
    check_all_readable(other, writer, [1, 2, 3, 4])
