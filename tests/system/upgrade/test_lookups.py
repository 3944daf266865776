"""Vaults of version 0.1 move to the new lookup automatically when they are used."""

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import psycopg
import pytest
from flask.testing import FlaskClient
from redis import Redis

from iot_api.app import create_app
from iot_api.service import Service
from iot_api.vaults.cache import VaultCache
from iot_cipher.keyring import parse_keyring
from iot_models.settings import Settings
from iot_stores import postgres as postgres_connections
from iot_stores.postgres import SCHEMA_REVISION
from iot_stores.redis_client import connect_redis
from iot_writer.maintenance import lookup_upgrade
from iot_writer.schema import migrate
from iot_writer.writer import Writer
from support.draining import drain_all
from support.keys import KEYS
from support.recorded_version import RecordedVersion
from support.stack import Stack, running_stack
from support.waiting import wait_until

JSON = {"Content-Type": "application/json"}


@pytest.fixture
def redis(settings: Settings) -> Iterator["Redis"]:
    """A client of the restored Redis."""
    with connect_redis(settings) as client:
        yield client


@pytest.fixture
def postgres(restored_postgres_url: str) -> Iterator[psycopg.Connection]:
    """A connection to the restored database."""
    with psycopg.connect(restored_postgres_url, autocommit=True) as connection:
        yield connection


@pytest.fixture
def environment(environment: dict[str, str]) -> dict[str, str]:
    """The environment with a low cost of scrypt, which keeps the tests fast."""
    return environment | {"IOT_SCRYPT_LOG2_N": "10"}


def formats(postgres: psycopg.Connection) -> set[int]:
    return {each for (each,) in postgres.execute("SELECT lookup_format FROM vaults")}


def fast_lookups(postgres: psycopg.Connection) -> tuple[str, str]:
    found = postgres.execute("SELECT fast_lookups, version_num FROM vault_lookups, alembic_version")
    return cast("tuple[str, str]", found.fetchone())


def let_old_processes_end(postgres: psycopg.Connection) -> None:
    """Move the time of the switch two minutes into the past."""
    postgres.execute("UPDATE vault_lookups SET changed_at = now() - interval '2 min'")


def ask(client: FlaskClient, password: str) -> list[dict[str, Any]]:
    answer = client.post("/api/iot", json={"data": {"db_password": password}})
    assert answer.status_code == 200, answer.data
    return cast("list[dict[str, Any]]", json.loads(answer.data)["data"])


def put(client: FlaskClient, password: str) -> int:
    return client.put("/api/iot", json={"data": {"db_password": password}}).status_code


def cache_of(client: FlaskClient) -> VaultCache:
    service: Service = client.application.extensions["iot"]
    return service.vaults.cache


def renew_all(cache: VaultCache) -> None:
    """Age every vault by half of its time in the cache."""
    for held in cache._vaults.values():  # noqa: SLF001 - likewise
        held.renew_at = 0.0


def test_every_vault_moves_when_it_is_used(
    recorded: RecordedVersion,
    client: FlaskClient,
    writer: Writer,
    postgres: psycopg.Connection,
    redis: "Redis",
) -> None:
    drain_all(writer)
    passwords = recorded.expected["passwords"]
    assert fast_lookups(postgres) == ("created", "0003")
    assert put(client, "made before") == 201
    assert formats(postgres) == {1}
    assert lookup_upgrade.advance(writer.postgres(), after_seconds=0)
    assert not lookup_upgrade.advance(writer.postgres(), after_seconds=0)
    assert fast_lookups(postgres) == ("kept", "0004")
    # Processes of version 0.1 may still answer requests, so no vault moves yet.
    first = next(iter(passwords))
    assert len(ask(client, first)) == len(passwords[first])
    assert put(client, "made after") == 201
    assert sorted(formats(postgres)) == [1, 2]
    let_old_processes_end(postgres)
    with pytest.MonkeyPatch.context() as patched:
        # An empty cache opens the vaults again.
        patched.setattr(cache_of(client), "get", lambda _: None)
        patched.setattr(cache_of(client), "writable", lambda _: None)
        for password, expected in passwords.items():
            assert len(ask(client, password)) == len(expected)
        assert (
            client.put("/api/iot", json={"data": {"db_password": "made before"}}).status_code == 201
        )
    assert formats(postgres) == {2}
    keyring = parse_keyring(recorded.keyring_file.read_text())
    for password in passwords:
        assert not redis.exists(KEYS.vault_record(keyring.lookup(password.encode())))
    lookup_upgrade.advance(writer.postgres(), after_seconds=0)
    assert fast_lookups(postgres) == ("gone", "0004")
    (count,) = cast("tuple[int]", postgres.execute("SELECT count(*) FROM vaults").fetchone())
    assert count == len(passwords) + 2


def test_a_vault_in_use_moves(
    recorded: RecordedVersion, client: FlaskClient, writer: Writer, postgres: psycopg.Connection
) -> None:
    """A vault in constant use is renewed and never opened again."""
    password = next(iter(recorded.expected["passwords"]))
    cache = cache_of(client)
    ask(client, password)
    lookup_upgrade.advance(writer.postgres(), after_seconds=0)
    let_old_processes_end(postgres)
    renew_all(cache)
    expected = recorded.expected["passwords"][password]
    ask(client, password)
    assert sorted(formats(postgres)) == [1, 2]
    renew_all(cache)
    drain_all(writer)
    assert len(ask(client, password)) == len(expected)


@pytest.fixture
def switching(environment: dict[str, str], tmp_path: Path) -> Iterator[Stack]:
    """API and writer as processes. The writer makes the switch immediately."""
    with running_stack(environment | {"IOT_UPGRADE_AFTER_SECONDS": "0"}, tmp_path) as stack:
        yield stack


def test_the_writer_makes_the_switch_automatically(
    recorded: RecordedVersion, switching: Stack, postgres: psycopg.Connection
) -> None:
    wait_until(lambda: fast_lookups(postgres) == ("kept", "0004"), what="the switch")
    for number, password in enumerate(recorded.expected["passwords"]):
        data = {"db_password": password, "interrogator_time": 2 * 10**15, "freeform": number}
        assert switching.put({"data": data}).status == 201
    for number, password in enumerate(recorded.expected["passwords"]):
        wait_until(partial(_ends_with, switching, password, str(number)), what="the reading")


def _ends_with(stack: Stack, password: str, freeform: str) -> bool:
    return bool(stack.read(password)[-1]["freeform"] == freeform)


def test_a_vault_of_version_0_1_is_found_without_postgres(
    recorded: RecordedVersion, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record of the vault is in Redis for a day. A new process does not know the lookups. An
    earlier process marked Redis with the keyring, so the new process may use this Redis.
    """
    before = create_app(settings)
    assert before.test_client().get("/readyz").status_code == 200
    before.extensions["iot"].close()
    monkeypatch.setattr(postgres_connections, "WAIT_SECONDS", 0.1)
    app = create_app(replace(settings, postgres_url="postgresql://iot@127.0.0.1:1/none"))
    try:
        for password in recorded.expected["passwords"]:
            body = json.dumps({"data": {"db_password": password}})
            answer = app.test_client().put("/api/iot", data=body, headers=JSON)
            assert answer.status_code == 201, (password, answer.data)
    finally:
        app.extensions["iot"].close()


def test_a_vault_created_by_version_0_1_after_the_switch_is_refused(
    postgres: psycopg.Connection, writer: Writer, settings: Settings
) -> None:
    insert = """
        INSERT INTO vaults (vault_id, lookup, salt, scrypt_log2_n, wrapped_key)
        VALUES (gen_random_uuid(), %s, 'salt', 14, 'key') ON CONFLICT (lookup) DO NOTHING
    """
    assert postgres.execute(insert, (b"1",)).rowcount == 1
    lookup_upgrade.advance(writer.postgres(), after_seconds=0)
    with pytest.raises(psycopg.OperationalError, match="another lookup"):  # a 503 in the API
        postgres.execute(insert, (b"2",))
    migrate(settings.postgres_url)
    assert fast_lookups(postgres) == ("kept", SCHEMA_REVISION)


def test_the_switch_waits_for_the_configured_time(
    postgres: psycopg.Connection, writer: Writer
) -> None:
    assert not lookup_upgrade.advance(writer.postgres(), after_seconds=3600)
    postgres.execute("UPDATE vault_lookups SET changed_at = now() - interval '61 min'")
    assert lookup_upgrade.advance(writer.postgres(), after_seconds=3600)


def test_another_migration_restarts_the_time_until_the_switch(
    postgres: psycopg.Connection, writer: Writer, settings: Settings
) -> None:
    """After a rollback to version 0.1, the database still has schema 0003 of the first upgrade."""
    let_old_processes_end(postgres)
    migrate(settings.postgres_url)
    assert fast_lookups(postgres) == ("created", "0003")
    assert not lookup_upgrade.advance(writer.postgres(), after_seconds=60)


def test_pepper_alone_tests_no_password_after_the_upgrade(
    recorded: RecordedVersion, client: FlaskClient, writer: Writer, postgres: psycopg.Connection
) -> None:
    lookup_upgrade.advance(writer.postgres(), after_seconds=0)
    let_old_processes_end(postgres)
    passwords = recorded.expected["passwords"]
    keyring = parse_keyring(recorded.keyring_file.read_text())
    fast = [keyring.lookup(each.encode()) for each in passwords]
    stored = "SELECT count(*) FROM vaults WHERE lookup = ANY (%s)"
    assert postgres.execute(stored, (fast,)).fetchone() == (len(passwords),)
    for password in passwords:
        ask(client, password)
    assert postgres.execute(stored, (fast,)).fetchone() == (0,)
