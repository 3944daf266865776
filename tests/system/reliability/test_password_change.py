"""Passwords that are changed under load, and by processes that are killed meanwhile."""

import json
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from redis import Redis

from iot_sensor_client import Client, NoResponseError, Response
from iot_tools.local.postgres_server import PostgresServer
from iot_writer.schema import migrate
from support.keys import KEYS
from support.stack import Stack
from support.waiting import wait_until
from system.reliability.several_workers import (
    BLOCKED,
    JSON,
    SEVERAL_WORKERS,
    WORKING,
    InBackground,
    freeforms,
    freeforms_of_each_worker,
    is_announced,
    kill_workers,
    newest_vault,
    postgres_of,
    put,
    store_reading,
)

LOOKUP = "SELECT lookup FROM vaults WHERE vault_id = %s"
RECORDS = "SELECT count(*) FROM audit_log"


def change(stack: Stack, old: str, new: str) -> Response:
    """Change a password."""
    body = json.dumps({"data": {"db_password": old, "new_password": new}})
    return stack.request("POST", "/api/vault/password", body, JSON)


@pytest.fixture(scope="module")
def shared_settings() -> dict[str, str]:
    return SEVERAL_WORKERS


@pytest.fixture
def old(password: str) -> str:
    """The password that a test changes."""
    return f"old {password}"


@pytest.fixture
def new(password: str) -> str:
    """The password that a test changes it to."""
    return f"new {password}"


@pytest.fixture
def service(shared_stack: Stack, old: str) -> Stack:
    """Several API processes and a writer, with one stored reading of the test."""
    store_reading(shared_stack, old)
    return shared_stack


@pytest.fixture
def vault_id(service: Stack, shared_environment: dict[str, str]) -> uuid.UUID:  # noqa: ARG001
    """The vault of the test."""
    return newest_vault(shared_environment)


@pytest.fixture
def redis(shared_environment: dict[str, str]) -> Iterator["Redis"]:
    """The service's Redis, which a test may pause."""
    with Redis.from_url(shared_environment["IOT_REDIS_URL"]) as client:
        yield client
        client.client_unpause()


def test_under_load(service: Stack, old: str, new: str) -> None:
    """After the answer the old password opens the vault in no process, and no reading is lost."""
    acknowledged = [0]
    numbers = iter(range(1, 1_000_000))
    changed: list[float] = []
    """When the change was answered."""
    late_numbers: list[int] = []
    """Readings that were sent under the old password afterwards."""

    def send(password: str) -> None:
        number, answered = next(numbers), bool(changed)
        assert put(service, password, number).status == 201
        acknowledged.append(number)
        if answered:
            late_numbers.append(number)

    old_reads: list[tuple[float, list[object]]] = []

    def read() -> None:
        began = time.monotonic()
        old_reads.append((began, freeforms(service, old)))

    def send_old() -> None:
        send(old)

    with InBackground(send_old, send_old, read) as load:
        wait_until(lambda: len(acknowledged) > 20, what="load")
        answer = change(service, old, new)
        changed.append(time.monotonic())
        assert answer.status == 200, answer
        before = acknowledged[:20]
        wait_until(lambda: time.monotonic() > changed[0] + 2, what="load after the change")
        for found in freeforms_of_each_worker(service, new):
            assert set(before) <= set(found)
    assert load.errors == []
    late = [found for began, found in old_reads if began > changed[0]]
    assert late
    for found in late:  # the vault that the devices began under the old password
        assert not set(before) & set(found)

    def all_stored() -> bool:
        found = freeforms(service, old) + freeforms(service, new)
        return sorted(map(str, found)) == sorted(map(str, acknowledged))

    wait_until(all_stored, what="each acknowledged reading once")
    assert late_numbers
    assert not set(late_numbers) & set(freeforms(service, new))


@pytest.mark.parametrize("waits_for", ["announcement", "postgres", "redis"])
def test_killed_in_the_middle(
    service: Stack,
    shared_environment: dict[str, str],
    redis: "Redis",
    vault_id: uuid.UUID,
    old: str,
    new: str,
    waits_for: str,
) -> None:
    """Exactly one of both passwords opens the vault: one statement decides."""
    answers: list[object] = []

    def send() -> None:
        try:
            answers.append(change(service, old, new).status)
        except NoResponseError:
            answers.append(None)

    def is_changed() -> bool:
        return postgres.execute(LOOKUP, [vault_id]).fetchone() != before

    thread = threading.Thread(target=send)
    with (
        postgres_of(shared_environment) as postgres,
        psycopg.connect(shared_environment["IOT_POSTGRES_URL"]) as locking,
    ):
        before = postgres.execute(LOOKUP, [vault_id]).fetchone()
        (records,) = postgres.execute(RECORDS).fetchone() or (0,)
        assert isinstance(records, int)
        locking.execute("SELECT FROM vaults WHERE vault_id = %s FOR UPDATE", [vault_id])
        thread.start()
        wait_until(lambda: is_announced(redis, vault_id), what="the announcement")
        if waits_for != "announcement":
            wait_until(lambda: postgres.execute(BLOCKED).fetchall(), what="a change that waits")
        if waits_for == "redis":  # nothing can be announced after the change
            redis.client_pause(60_000, all=False)
            locking.rollback()
            wait_until(is_changed, what="the change")
        kill_workers(service)
        redis.client_unpause()
        locking.rollback()
        thread.join()
        assert answers == [None]
        wait_until(lambda: not postgres.execute(WORKING).fetchall(), what="the killed session")
        changed = is_changed()
        assert postgres.execute(RECORDS).fetchone() == (records + int(changed),)
        if waits_for != "postgres":  # which completes or cancels a statement without its client
            assert changed is (waits_for == "redis")
        valid, invalid = (new, old) if changed else (old, new)
        assert all(found == [0] for found in freeforms_of_each_worker(service, valid))
        assert not any(freeforms_of_each_worker(service, invalid))
        third = f"third {new}"
        assert change(service, valid, third).status == 200
        assert freeforms(service, third) == [0]


def test_while_postgres_is_away_the_old_password_opens_nothing(
    environment: dict[str, str], tmp_path: Path, old: str, new: str
) -> None:
    """A process that starts during the outage has the records of Redis only."""
    server = PostgresServer(tmp_path / "postgres", settings={"fsync": "off"})
    server.start()
    migrate(server.url)
    url = make_conninfo(server.url)
    stack = Stack(environment | {"IOT_POSTGRES_URL": url}, tmp_path)
    try:
        stack.start_api("--workers=1")
        assert put(stack, old, 0).status == 201
        with Redis.from_url(environment["IOT_REDIS_URL"]) as redis, psycopg.connect(url) as client:
            (lookup,) = client.execute("SELECT lookup FROM vaults").fetchall()[0]
            name = KEYS.vault_record(lookup)
            record = redis.get(name)
            assert isinstance(record, bytes)
            assert change(stack, old, new).status == 200
            redis.set(name, record, ex=86_400)  # as a process that read Postgres before the change
        server.stop()
        kill_workers(stack)
        assert put(stack, old, "refused").status == 503
        assert put(stack, new, "accepted").status == 201
    finally:
        stack.stop()
        server.stop()


def test_the_python_client(service: Stack, old: str, new: str) -> None:
    with Client(service.url, old, timeout=30) as client:
        client.change_password(new)
        assert [each["freeform"] for each in client.read()] == ["0"]
