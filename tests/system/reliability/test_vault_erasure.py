"""Vaults that are erased under load, and by processes that are killed meanwhile."""

import itertools
import json
import threading
import time
import uuid
from collections.abc import Iterator

import psycopg
import pytest
from redis import Redis

from integration.compaction.past import Past, each_second, noon
from iot_models.settings import Settings, load
from iot_sensor_client import Client, NoResponseError, Response
from support.erasure import SETTLED, keys_with, rows_with
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
    kill_writers,
    newest_vault,
    postgres_of,
    put,
    store_reading,
)

ERASED = "SELECT EXISTS (SELECT FROM erased_vaults WHERE vault_id = %s)"
FINISHED = "SELECT noted FROM erased_vaults WHERE vault_id = %s"


def erase(stack: Stack, password: str) -> Response:
    """Erase a vault."""
    body = json.dumps({"data": {"db_password": password}})
    return stack.request("DELETE", "/api/vault", body, JSON)


def is_finished(postgres: "psycopg.Connection[tuple[object, ...]]", vault_id: uuid.UUID) -> bool:
    """Return whether the deletion of an erased vault's segments is noted."""
    row = postgres.execute(FINISHED, [vault_id]).fetchone()
    assert row is not None
    return bool(row[0])


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


@pytest.fixture(scope="module")
def shared_settings() -> dict[str, str]:
    return SEVERAL_WORKERS


@pytest.fixture
def service(shared_stack: Stack, password: str) -> Stack:
    """Several API processes and two writers, with one stored reading of the test."""
    shared_stack.start_missing(writers=2)
    store_reading(shared_stack, password)
    return shared_stack


@pytest.fixture
def vault_id(service: Stack, shared_environment: dict[str, str]) -> uuid.UUID:  # noqa: ARG001
    """The vault of the test."""
    return newest_vault(shared_environment)


@pytest.fixture
def settings(shared_environment: dict[str, str]) -> Settings:
    """Settings on the stores of the service, for the fixture `past`."""
    return load(shared_environment)


@pytest.fixture
def redis(shared_environment: dict[str, str]) -> Iterator["Redis"]:
    """The service's Redis, which a test may pause."""
    with Redis.from_url(shared_environment["IOT_REDIS_URL"]) as client:
        yield client
        client.client_unpause()


@pytest.fixture
def postgres(
    shared_environment: dict[str, str],
) -> Iterator["psycopg.Connection[tuple[object, ...]]"]:
    """The service's database."""
    with postgres_of(shared_environment) as connection:
        yield connection


class Devices:
    """Requests under one password. Each reading holds the number of its request."""

    def __init__(self, stack: Stack, password: str) -> None:
        self._stack = stack
        self._password = password
        self._numbers = itertools.count(1)
        self.sent: list[tuple[float, str]] = []
        """When each acknowledged request began, and its reading."""
        self.reads: list[tuple[float, set[str]]] = []
        """When each read began, and what it returned."""

    def send(self) -> None:
        began, number = time.monotonic(), next(self._numbers)
        assert put(self._stack, self._password, number).status == 201
        self.sent.append((began, str(number)))

    def read(self) -> None:
        self._read("")

    def read_hot_window(self) -> None:
        self._read("/seconds/600")

    def _read(self, path: str) -> None:
        began = time.monotonic()
        found = {each["freeform"] for each in self._stack.read(self._password, path)}
        self.reads.append((began, found))

    def sent_before(self, moment: float) -> set[str]:
        return {number for at, number in self.sent if at < moment}

    def sent_after(self, moment: float) -> set[str]:
        return {number for at, number in self.sent if at > moment}


def texts(stack: Stack, password: str) -> list[str]:
    """Return the stored texts of all readings."""
    return [each["freeform"] for each in stack.read(password)]


def test_under_load(
    service: Stack,
    past: Past,
    redis: "Redis",
    postgres: "psycopg.Connection[tuple[object, ...]]",
    password: str,
    vault_id: uuid.UUID,
) -> None:
    """While the vault is written to, read, compacted and queued."""
    past.store(password.encode(), each_second(noon(3), 400))
    devices = Devices(service, password)
    another = f"another {password}"

    def compact() -> None:
        past.look(password.encode())

    assert put(service, another, "kept").status == 201
    old = set(texts(service, password))
    assert len(old) > 400
    work = (devices.send, devices.send, devices.read, devices.read_hot_window, compact)
    with InBackground(*work) as load_threads:
        wait_until(lambda: len(devices.sent) > 20, what="load")
        began = time.monotonic()
        assert erase(service, password).status == 200
        answered = time.monotonic()
        wait_until(lambda: devices.sent[-1][0] > answered + 3, what="load afterwards")
    assert load_threads.errors == []
    old |= devices.sent_before(began - 1)
    late = [found for at, found in devices.reads if at > answered + 1]
    assert late
    for found in late:
        assert not old & found
    wait_until(
        lambda: devices.sent_after(answered) <= set(texts(service, password)),
        what="each reading that was sent after the answer",
    )
    stored = texts(service, password)
    assert len(stored) == len(set(stored))
    wait_until(lambda: nothing_is_left(postgres, redis, vault_id), what="the deletion", seconds=60)
    kill_writers(service)
    kill_workers(service)
    service.start_writer()
    assert put(service, password, "restarted").status == 201
    wait_until(lambda: '"restarted"' in texts(service, password), what="the new writer")
    assert sorted(texts(service, password)) == sorted([*stored, '"restarted"'])
    assert nothing_is_left(postgres, redis, vault_id)
    assert freeforms(service, another) == ["kept"]


@pytest.mark.parametrize("waits_for", ["announcement", "postgres", "redis"])
def test_an_api_process_is_killed(
    service: Stack,
    shared_environment: dict[str, str],
    redis: "Redis",
    postgres: "psycopg.Connection[tuple[object, ...]]",
    password: str,
    vault_id: uuid.UUID,
    waits_for: str,
) -> None:
    """The vault is erased or as before. Other processes finish an erasure."""
    answers: list[object] = []

    def send() -> None:
        try:
            answers.append(erase(service, password).status)
        except NoResponseError:
            answers.append(None)

    def is_erased() -> bool:
        return postgres.execute(ERASED, [vault_id]).fetchone() == (True,)

    thread = threading.Thread(target=send)
    with psycopg.connect(shared_environment["IOT_POSTGRES_URL"]) as locking:
        locking.execute("SELECT FROM vaults WHERE vault_id = %s FOR UPDATE", [vault_id])
        thread.start()
        wait_until(lambda: is_announced(redis, vault_id), what="the announcement")
        if waits_for != "announcement":
            wait_until(lambda: postgres.execute(BLOCKED).fetchall(), what="an erasure that waits")
        if waits_for == "redis":  # nothing can be announced or removed after the transaction
            redis.client_pause(60_000, all=False)
            locking.rollback()
            wait_until(is_erased, what="the erasure")
        kill_workers(service)
        redis.client_unpause()
        locking.rollback()
        thread.join()
        assert answers == [None]
        wait_until(lambda: not postgres.execute(WORKING).fetchall(), what="the killed session")
        erased = is_erased()
        if waits_for != "postgres":  # which completes or cancels a statement without its client
            assert erased is (waits_for == "redis")
        expected: list[object] = [] if erased else [0]
        assert all(found == expected for found in freeforms_of_each_worker(service, password))
        if not erased:
            assert erase(service, password).status == 200
        postgres.execute(SETTLED)
        wait_until(
            lambda: nothing_is_left(postgres, redis, vault_id), what="the deletion", seconds=60
        )


def test_a_writer_is_killed(
    service: Stack,
    shared_environment: dict[str, str],
    redis: "Redis",
    postgres: "psycopg.Connection[tuple[object, ...]]",
    password: str,
    vault_id: uuid.UUID,
) -> None:
    """Another one continues to delete."""
    with psycopg.connect(shared_environment["IOT_POSTGRES_URL"]) as locking:
        locking.execute("SELECT FROM segments WHERE vault_id = %s FOR UPDATE", [vault_id])
        assert erase(service, password).status == 200
        wait_until(lambda: postgres.execute(BLOCKED).fetchall(), what="a deletion that waits")
        kill_writers(service)
        assert not is_finished(postgres, vault_id)
        locking.rollback()
        assert service.read(password) == []
        service.start_writer()
        wait_until(
            lambda: nothing_is_left(postgres, redis, vault_id), what="the deletion", seconds=60
        )
        wait_until(lambda: is_finished(postgres, vault_id), what="its note")


def test_the_python_client(service: Stack, password: str) -> None:
    with Client(service.url, password, timeout=30) as client:
        client.erase_vault()
        assert client.read() == []
