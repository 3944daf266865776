"""A service of several API processes: load in the background, kills, and sessions of Postgres."""

import json
import os
import signal
import threading
import uuid
from collections.abc import Callable, Mapping
from typing import Any, cast

import psycopg
from redis import Redis

from iot_sensor_client import Response
from support.keys import KEYS
from support.processes import api_workers
from support.stack import Stack
from support.waiting import wait_until

JSON = {"Content-Type": "application/json"}
SEVERAL_WORKERS = {"IOT_API_WORKERS": "3"}
"""Settings of a service of several API processes."""
WORKING = """
    SELECT pid FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid() AND state <> 'idle'
"""
BLOCKED = "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock'"


def put(stack: Stack, password: str, freeform: object) -> Response:
    """PUT one reading."""
    return stack.put({"data": {"db_password": password, "freeform": freeform}})


def freeforms(stack: Stack, password: str) -> list[object]:
    return _freeforms(stack.read(password))


def freeforms_of_each_worker(stack: Stack, password: str) -> list[list[object]]:
    """Return what `freeforms` returns, as each API process answers."""
    return [_freeforms(rows) for rows in stack.read_from_each_worker(password)]


def _freeforms(rows: list[dict[str, Any]]) -> list[object]:
    return sorted(json.loads(each["freeform"]) for each in rows)


def postgres_of(environment: dict[str, str]) -> "psycopg.Connection[tuple[object, ...]]":
    return psycopg.connect(environment["IOT_POSTGRES_URL"], autocommit=True)


def store_reading(stack: Stack, password: str) -> None:
    """Store one reading, in a vault that all API processes have open."""
    assert put(stack, password, 0).status == 201
    wait_until(lambda: stack.read(password), what="the reading")
    assert all(stack.read_from_each_worker(password))


def newest_vault(environment: Mapping[str, str]) -> uuid.UUID:
    """Return the vault that was created last."""
    with psycopg.connect(environment["IOT_POSTGRES_URL"]) as postgres:
        statement = "SELECT vault_id FROM vaults ORDER BY created_at DESC LIMIT 1"
        row = postgres.execute(statement).fetchone()
    assert row is not None
    vault_id = row[0]
    assert isinstance(vault_id, uuid.UUID)
    return vault_id


def is_announced(redis: "Redis", vault_id: uuid.UUID) -> bool:
    """Return whether a change of the vault's password, or its erasure, is announced."""
    entries = cast("list[tuple[bytes, dict[bytes, bytes]]]", redis.xrange(KEYS.password_changes))
    return any(vault_id.bytes in fields.values() for _, fields in entries)


def kill_writers(stack: Stack) -> None:
    """SIGKILL all writers."""
    for writer in stack.writers:
        writer.kill()


def kill_workers(stack: Stack) -> None:
    """SIGKILL all API processes except gunicorn's master, which starts others."""
    assert stack.api is not None
    killed = api_workers(stack.api.pid)
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    master = stack.api.pid
    wait_until(
        lambda: not killed & api_workers(master) and len(api_workers(master)) == len(killed),
        what="new workers",
    )
    wait_until(stack.answers, what="an API that answers")


class InBackground:
    """Threads that call a function again and again until they are told to end."""

    def __init__(self, *work: Callable[[], None]) -> None:
        self._over = threading.Event()
        self.errors: list[BaseException] = []
        self._threads = [threading.Thread(target=self._run, args=(each,)) for each in work]

    def __enter__(self) -> "InBackground":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _run(self, work: Callable[[], None]) -> None:
        try:
            while not self._over.is_set():
                work()
        except BaseException as error:  # noqa: BLE001 - reported by the test
            self.errors.append(error)
