"""Vaults that are erased under load, and by processes that are killed meanwhile."""

import itertools
import json
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from redis import Redis

from integration.compaction.past import Past, each_second, noon
from iot_sensor_client import Client, NoResponseError, Response
from support.erasure import SETTLED, keys_with, rows_with
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

PASSWORD, ANOTHER = "the password", "another password"
ERASED = "SELECT EXISTS (SELECT FROM erased_vaults)"
FINISHED = "SELECT bool_and(noted) FROM erased_vaults"


def erase(stack: Stack, password: str = PASSWORD) -> Response:
    """Erase a vault."""
    body = json.dumps({"data": {"db_password": password}})
    return stack.request("DELETE", "/api/vault", body, JSON)


def vault_of(postgres: "psycopg.Connection[tuple[object, ...]]") -> uuid.UUID:
    """Return the oldest vault."""
    row = postgres.execute("SELECT vault_id FROM vaults ORDER BY created_at LIMIT 1").fetchone()
    assert row is not None
    vault_id = row[0]
    assert isinstance(vault_id, uuid.UUID)
    return vault_id


def nothing_is_left(
    postgres: "psycopg.Connection[tuple[object, ...]]", redis: "Redis", vault_id: uuid.UUID
) -> bool:
    """Return whether only tombstones and marks name the vault."""
    keys = {
        key
        for key in keys_with(redis, vault_id)
        if not key.startswith((KEYS.changed_lookup(b""), KEYS.password_changes))
    }
    return not keys and set(rows_with(postgres, vault_id)) == {"erased_vaults"}


@pytest.fixture
def service(environment: dict[str, str], tmp_path: Path) -> Iterator[Stack]:
    """Several API processes and two writers, with one stored reading."""
    with service_with_reading(environment, tmp_path, PASSWORD, writers=2) as made:
        yield made


class Devices:
    """Requests under one password. Each reading holds the number of its request."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._numbers = itertools.count(1)
        self.sent: list[tuple[float, str]] = []
        """When each acknowledged request began, and its reading."""
        self.reads: list[tuple[float, set[str]]] = []
        """When each read began, and what it returned."""

    def send(self) -> None:
        began, number = time.monotonic(), next(self._numbers)
        assert put(self._stack, PASSWORD, number).status == 201
        self.sent.append((began, str(number)))

    def read(self) -> None:
        self._read("")

    def read_hot_window(self) -> None:
        self._read("/seconds/600")

    def _read(self, path: str) -> None:
        began = time.monotonic()
        found = {each["freeform"] for each in self._stack.read(PASSWORD, path)}
        self.reads.append((began, found))

    def sent_before(self, moment: float) -> set[str]:
        return {number for at, number in self.sent if at < moment}

    def sent_after(self, moment: float) -> set[str]:
        return {number for at, number in self.sent if at > moment}


def texts(stack: Stack) -> list[str]:
    """Return the stored texts of all readings."""
    return [each["freeform"] for each in stack.read(PASSWORD)]


def test_under_load(service: Stack, past: Past, environment: dict[str, str]) -> None:
    """While the vault is written to, read, compacted and queued."""
    past.store(PASSWORD.encode(), each_second(noon(3), 400))
    devices = Devices(service)

    def compact() -> None:
        past.look(PASSWORD.encode())

    with (
        postgres_of(environment) as postgres,
        Redis.from_url(environment["IOT_REDIS_URL"]) as redis,
    ):
        assert put(service, ANOTHER, "kept").status == 201
        vault_id = vault_of(postgres)
        old = set(texts(service))
        assert len(old) > 400
        work = (devices.send, devices.send, devices.read, devices.read_hot_window, compact)
        with InBackground(*work) as load_threads:
            wait_until(lambda: len(devices.sent) > 20, what="load")
            began = time.monotonic()
            assert erase(service).status == 200
            answered = time.monotonic()
            wait_until(lambda: devices.sent[-1][0] > answered + 3, what="load afterwards")
        assert load_threads.errors == []
        old |= devices.sent_before(began - 1)
        late = [found for at, found in devices.reads if at > answered + 1]
        assert late
        for found in late:
            assert not old & found
        wait_until(
            lambda: devices.sent_after(answered) <= set(texts(service)),
            what="each reading that was sent after the answer",
        )
        stored = texts(service)
        assert len(stored) == len(set(stored))
        wait_until(
            lambda: nothing_is_left(postgres, redis, vault_id), what="the deletion", seconds=60
        )
        for child in service.writers:
            child.kill()
            child.wait()
        kill_workers(service)
        service.start_writer()
        assert put(service, PASSWORD, "restarted").status == 201
        wait_until(lambda: '"restarted"' in texts(service), what="the new writer")
        assert sorted(texts(service)) == sorted([*stored, '"restarted"'])
        assert nothing_is_left(postgres, redis, vault_id)
        assert freeforms(service, ANOTHER) == ["kept"]


@pytest.mark.parametrize("waits_for", ["announcement", "postgres", "redis"])
def test_an_api_process_is_killed(
    service: Stack, environment: dict[str, str], waits_for: str
) -> None:
    """The vault is erased or as before. Other processes finish an erasure."""
    answers: list[object] = []

    def send() -> None:
        try:
            answers.append(erase(service).status)
        except NoResponseError:
            answers.append(None)

    thread = threading.Thread(target=send)
    with (
        Redis.from_url(environment["IOT_REDIS_URL"]) as redis,
        postgres_of(environment) as postgres,
        psycopg.connect(environment["IOT_POSTGRES_URL"]) as locking,
    ):
        vault_id = vault_of(postgres)
        locking.execute("SELECT FROM vaults FOR UPDATE")
        thread.start()
        wait_until(lambda: redis.exists(KEYS.password_changes), what="the announcement")
        if waits_for != "announcement":
            wait_until(lambda: postgres.execute(BLOCKED).fetchall(), what="an erasure that waits")
        if waits_for == "redis":  # nothing can be announced or removed after the transaction
            redis.execute_command("CLIENT PAUSE", 60_000, "WRITE")
            locking.rollback()
            wait_until(lambda: postgres.execute(ERASED).fetchone() == (True,), what="the erasure")
        kill_workers(service)
        redis.execute_command("CLIENT UNPAUSE")
        locking.rollback()
        thread.join()
        assert answers == [None]
        wait_until(lambda: not postgres.execute(WORKING).fetchall(), what="the killed session")
        erased = postgres.execute(ERASED).fetchone() == (True,)
        if waits_for != "postgres":  # which completes or cancels a statement without its client
            assert erased is (waits_for == "redis")
        for _ in range(5 * WORKERS):
            assert freeforms(service, PASSWORD) == ([] if erased else [0])
        if not erased:
            assert erase(service).status == 200
        postgres.execute(SETTLED)
        wait_until(
            lambda: nothing_is_left(postgres, redis, vault_id), what="the deletion", seconds=60
        )


def test_a_writer_is_killed(service: Stack, environment: dict[str, str]) -> None:
    """Another one continues to delete."""
    with (
        Redis.from_url(environment["IOT_REDIS_URL"]) as redis,
        postgres_of(environment) as postgres,
        psycopg.connect(environment["IOT_POSTGRES_URL"]) as locking,
    ):
        vault_id = vault_of(postgres)
        locking.execute("SELECT FROM segments FOR UPDATE")
        assert erase(service).status == 200
        wait_until(lambda: postgres.execute(BLOCKED).fetchall(), what="a deletion that waits")
        for child in service.writers:
            child.kill()
            child.wait()
        assert postgres.execute(FINISHED).fetchone() == (False,)
        locking.rollback()
        assert service.read(PASSWORD) == []
        service.start_writer()
        wait_until(
            lambda: nothing_is_left(postgres, redis, vault_id), what="the deletion", seconds=60
        )
        wait_until(lambda: postgres.execute(FINISHED).fetchone() == (True,), what="its note")


def test_the_python_client(service: Stack) -> None:
    with Client(f"http://127.0.0.1:{service.port}", PASSWORD, timeout=30) as client:
        client.erase_vault()
        assert client.read() == []
