"""Passwords that are changed under load, and by processes that are killed meanwhile."""

import json
import threading
import time
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
    WORKERS,
    WORKING,
    InBackground,
    freeforms,
    kill_workers,
    postgres_of,
    put,
    service_with_reading,
)

OLD, NEW = "old password", "new password"
LOOKUP = "SELECT lookup FROM vaults ORDER BY created_at LIMIT 1"


def change(stack: Stack, old: str = OLD, new: str = NEW) -> Response:
    """Change a password."""
    body = json.dumps({"data": {"db_password": old, "new_password": new}})
    return stack.request("POST", "/api/vault/password", body, JSON)


@pytest.fixture
def service(environment: dict[str, str], tmp_path: Path) -> Iterator[Stack]:
    """Several API processes and a writer, with one stored reading."""
    with service_with_reading(environment, tmp_path, OLD) as made:
        yield made


def test_under_load(service: Stack) -> None:
    """After the answer the old password opens the vault in no process, and no reading is lost."""
    acknowledged = [0]
    numbers = iter(range(1, 1_000_000))

    def send(password: str) -> None:
        number = next(numbers)
        assert put(service, password, number).status == 201
        acknowledged.append(number)

    old_reads: list[tuple[float, list[object]]] = []

    def read() -> None:
        began = time.monotonic()
        old_reads.append((began, freeforms(service, OLD)))

    def send_old() -> None:
        send(OLD)

    with InBackground(send_old, send_old, read) as load:
        wait_until(lambda: len(acknowledged) > 20, what="load")
        answer = change(service)
        changed = time.monotonic()
        assert answer.status == 200, answer
        before = acknowledged[:20]
        wait_until(lambda: time.monotonic() > changed + 2, what="load after the change")
        for _ in range(10 * WORKERS):
            assert set(before) <= set(freeforms(service, NEW))
    assert load.errors == []
    late = [found for began, found in old_reads if began > changed + 1]
    assert late
    for found in late:  # the vault that the devices began under the old password
        assert not set(before) & set(found)

    def all_stored() -> bool:
        found = freeforms(service, OLD) + freeforms(service, NEW)
        return sorted(map(str, found)) == sorted(map(str, acknowledged))

    wait_until(all_stored, what="each acknowledged reading once")


@pytest.mark.parametrize("waits_for", ["announcement", "postgres", "redis"])
def test_killed_in_the_middle(service: Stack, environment: dict[str, str], waits_for: str) -> None:
    """Exactly one of both passwords opens the vault: one statement decides."""
    answers: list[object] = []

    def send() -> None:
        try:
            answers.append(change(service).status)
        except NoResponseError:
            answers.append(None)

    thread = threading.Thread(target=send)
    with (
        Redis.from_url(environment["IOT_REDIS_URL"]) as redis,
        postgres_of(environment) as postgres,
        psycopg.connect(environment["IOT_POSTGRES_URL"]) as locking,
    ):
        before = postgres.execute(LOOKUP).fetchone()
        locking.execute("SELECT FROM vaults FOR UPDATE")
        thread.start()
        wait_until(lambda: redis.exists(KEYS.password_changes), what="the announcement")
        if waits_for != "announcement":
            wait_until(lambda: postgres.execute(BLOCKED).fetchall(), what="a change that waits")
        if waits_for == "redis":  # nothing can be announced after the change
            redis.execute_command("CLIENT PAUSE", 60_000, "WRITE")
            locking.rollback()
            wait_until(lambda: postgres.execute(LOOKUP).fetchone() != before, what="the change")
        kill_workers(service)
        redis.execute_command("CLIENT UNPAUSE")
        locking.rollback()
        thread.join()
        assert answers == [None]
        wait_until(lambda: not postgres.execute(WORKING).fetchall(), what="the killed session")
        changed = postgres.execute(LOOKUP).fetchone() != before
        assert postgres.execute("SELECT count(*) FROM audit_log").fetchone() == (int(changed),)
        if waits_for != "postgres":  # which completes or cancels a statement without its client
            assert changed is (waits_for == "redis")
        valid, invalid = (NEW, OLD) if changed else (OLD, NEW)
        for _ in range(5 * WORKERS):
            assert freeforms(service, valid) == [0]
            assert freeforms(service, invalid) == []
        assert change(service, valid, "third").status == 200
        assert freeforms(service, "third") == [0]


def test_while_postgres_is_away_the_old_password_opens_nothing(
    environment: dict[str, str], tmp_path: Path
) -> None:
    """A process that starts during the outage has the records of Redis only."""
    server = PostgresServer(tmp_path / "postgres", settings={"fsync": "off"})
    server.start()
    migrate(server.url)
    url = make_conninfo(server.url)
    stack = Stack(environment | {"IOT_POSTGRES_URL": url}, tmp_path)
    try:
        stack.start_api("--workers=1")
        assert put(stack, OLD, 0).status == 201
        with Redis.from_url(environment["IOT_REDIS_URL"]) as redis, psycopg.connect(url) as client:
            (lookup,) = client.execute("SELECT lookup FROM vaults").fetchall()[0]
            name = KEYS.vault_record(lookup)
            record = redis.get(name)
            assert isinstance(record, bytes)
            assert change(stack).status == 200
            redis.set(name, record, ex=86_400)  # as a process that read Postgres before the change
        server.stop()
        kill_workers(stack)
        assert put(stack, OLD, "refused").status == 503
        assert put(stack, NEW, "accepted").status == 201
    finally:
        stack.stop()
        server.stop()


def test_the_python_client(service: Stack) -> None:
    with Client(f"http://127.0.0.1:{service.port}", OLD, timeout=30) as client:
        client.change_password(NEW)
        assert [each["freeform"] for each in client.read()] == ["0"]
