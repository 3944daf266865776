"""A rolling restart of every process under load fails no request."""

import os
import signal
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from iot_models.settings import load
from iot_stores.backlog import Backlog
from iot_stores.redis_client import connect_redis
from iot_tools.local.child import Child
from support.keys import KEYS
from support.processes import api_workers, handles
from support.stack import Stack, running_stack
from support.waiting import stretched, wait_until
from system.reliability.devices import Fleet

DEVICES = 8
OLDEST_SECONDS = 10.0
"""Limit on the age of entries while writers restart (docs/reliability.md). An idle machine takes
0.1 s."""
END_SECONDS = 15.0
"""Limit on the shutdown of a process with quick requests."""


@pytest.fixture(scope="module")
def shared_settings() -> dict[str, str]:
    """Settings that allow one client to open all vaults, however busy the machine is."""
    return {"IOT_GUESS_LIMIT": "0"}


@pytest.fixture
def stack(shared_stack: Stack) -> Stack:
    """The API and a writer, which all tests share and restart."""
    return shared_stack


@pytest.fixture
def second(shared_environment: dict[str, str], tmp_path: Path) -> Iterator[Stack]:
    """A second gunicorn on the same stores."""
    with running_stack(shared_environment, tmp_path / "second", writers=0, metrics=True) as made:
        yield made


def end(process: Child | None) -> float:
    """Send SIGTERM, and return the seconds until the process ended."""
    assert process is not None
    began = time.monotonic()
    process.terminate()
    assert process.wait(30) == 0
    return time.monotonic() - began


def master(stack: Stack) -> int:
    assert stack.api is not None
    return stack.api.pid


def test_a_rolling_restart_of_instances_fails_no_request(
    stack: Stack, second: Stack, password: str
) -> None:
    with Fleet(DEVICES, [stack.port, second.port], name=password) as fleet:
        for instance in (stack, second, stack):
            took = end(instance.api)
            fleet.go_on()
            assert took < stretched(END_SECONDS)
            instance.start_api()
            fleet.go_on()
            print(f"a gunicorn under load ended in {took:.2f} s")
    fleet.assert_no_request_failed()
    fleet.check(stack.read)


def test_a_rolling_restart_of_workers_fails_no_request(stack: Stack, password: str) -> None:
    with Fleet(DEVICES, [stack.port], name=password) as fleet:
        for worker in api_workers(master(stack)):
            began = time.monotonic()
            os.kill(worker, signal.SIGTERM)
            wait_until(lambda pid=worker: not Path(f"/proc/{pid}").exists(), what="its exit")  # type: ignore[misc]
            took = time.monotonic() - began
            assert took < stretched(END_SECONDS)
            wait_until(lambda: len(api_workers(master(stack))) == 2, what="another worker")
            fleet.go_on()
            print(f"an API worker under load ended in {took:.2f} s")
    fleet.assert_no_request_failed()
    fleet.check(stack.read)


def test_a_reload_fails_no_request(stack: Stack, password: str) -> None:
    with Fleet(DEVICES, [stack.port], name=password) as fleet:
        before = api_workers(master(stack))
        os.kill(master(stack), signal.SIGHUP)
        wait_until(
            lambda: len(now := api_workers(master(stack))) == 2 and not now & before,
            what="new workers instead of all old ones",
        )
        fleet.go_on()
    fleet.assert_no_request_failed()
    fleet.check(stack.read)


def test_a_rolling_restart_of_writers_fails_no_request(
    stack: Stack, shared_environment: dict[str, str], password: str
) -> None:
    stack.start_writer()
    oldest = 0.0
    settings = load(shared_environment)
    fleet = Fleet(DEVICES, [stack.port], name=password)
    with connect_redis(settings) as redis, fleet:
        backlog = Backlog(redis, KEYS, shards=settings.shards, max_bytes=2**29)
        wait_until(lambda: stack.read(f"{password} 0"), what="a writer that works")
        wait_until(lambda: backlog.state().oldest_seconds < 0.5, what="a drained backlog")
        for _ in range(3):
            writer = stack.writers.pop(0)
            wait_until(partial(handles, writer.pid, signal.SIGTERM), what="a SIGTERM handler")
            began = time.monotonic()
            took = end(writer)
            assert took < stretched(END_SECONDS)
            print(f"a writer under load ended in {took:.2f} s")
            stack.start_writer()
            while time.monotonic() < began + 3:
                oldest = max(oldest, backlog.state().oldest_seconds)
                fleet.go_on(1)
    print(f"the oldest entry in the backlog meanwhile was {oldest:.2f} s old")
    assert oldest < stretched(OLDEST_SECONDS)
    fleet.assert_no_request_failed()
    fleet.check(stack.read)
