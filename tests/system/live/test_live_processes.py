"""`POST /api/iot/live` of real processes: kills, shutdowns, slow readers."""

import http.client
import json
import os
import random
import signal
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress

import pytest

from integration.api.asking import JSON, row
from iot_sensor_client import NoResponseError
from support.live_events import body_pieces, live_events, parse_events
from support.stack import MakeStack, Stack
from support.waiting import stretched, wait_until
from system.reliability.test_request_memory import memory


@pytest.fixture(scope="module")
def shared_settings() -> dict[str, str]:
    """Settings for several shards, with frequent heartbeats."""
    return {"IOT_SHARDS": "2", "IOT_LIVE_HEARTBEAT_SECONDS": "1"}


def send(stack: Stack, password: str, *texts: int) -> None:
    """Send readings in one request."""
    assert stack.put([row(password, freeform=text) for text in texts]).status == 201


def test_a_slow_reader_gets_summaries_and_takes_no_memory(
    shared_stack: Stack, password: str
) -> None:
    stack = shared_stack
    send(stack, password, 0)
    wait_until(lambda: stack.read(password), what="the first reading")
    connection = http.client.HTTPConnection("127.0.0.1", stack.port, timeout=30)
    connection.sock = socket.socket()
    connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.sock.connect(("127.0.0.1", stack.port))
    body = json.dumps({"data": {"db_password": password}})
    connection.request("POST", "/api/iot/live", body, JSON)
    events = parse_events(body_pieces(connection.getresponse()))
    assert next(events).name == "open"
    before = {worker: memory(worker, "VmRSS") for worker in stack.workers()}
    total = 0
    for _ in range(24):  # 24 MB, more than the kernel keeps for the connection
        rows = [row(password, freeform="x" * 10_000) for _ in range(100)]
        assert stack.put(rows).status == 201
        total += len(rows)
    send(stack, password, -1)
    growth = {worker: memory(worker, "VmRSS") - before[worker] for worker in stack.workers()}
    seen = skipped = 0
    for event in events:
        seen += len(event.ids)
        skipped += event.data.get("skipped", 0)
        if seen + skipped > total:
            break
    connection.close()
    assert skipped > 0
    assert seen + skipped == total + 1
    assert max(growth.values()) < 64, growth


class Sender(threading.Thread):
    """A device that sends a reading every few milliseconds until it is stopped."""

    def __init__(self, stack: Stack, password: str) -> None:
        super().__init__(daemon=True)
        self._stack = stack
        self._password = password
        self.acknowledged: list[int] = []
        self.stopping = threading.Event()

    def run(self) -> None:
        """Send readings. A reading without an answer may be stored."""
        number = 0
        while not self.stopping.wait(0.005):
            number += 1
            with suppress(NoResponseError, AssertionError):
                send(self._stack, self._password, number)
                self.acknowledged.append(number)


class Follower:
    """A client that reconnects with the last id, and keeps what it has received."""

    def __init__(self, stack: Stack, password: str) -> None:
        self._stack = stack
        self._password = password
        self._position = ""
        self.ids: list[int] = []
        self.texts: list[int] = []

    def follow(self, until: Callable[[], bool]) -> None:
        """Receive readings until a condition holds, or the connection breaks."""
        opened = live_events(self._stack.port, self._password, self._position)
        with suppress(OSError), opened as events:
            for event in events:
                assert event.name in {"open", "readings", "heartbeat"}, event
                self._position = event.id
                self.ids += event.ids
                self.texts += map(int, event.texts)
                if until():
                    return


def test_killed_processes_cost_no_reading_and_repeat_none(
    shared_stack: Stack, password: str
) -> None:
    stack = shared_stack
    stack.start_writer()  # next to another one
    send(stack, password, 0)
    follower, sender = Follower(stack, password), Sender(stack, password)
    chance = random.Random(1)
    follower.follow(lambda: True)
    sender.start()

    def kill_writer() -> None:
        stack.writers[-1].kill()
        stack.start_writer()

    def kill_api() -> None:
        os.kill(chance.choice(sorted(stack.workers())), signal.SIGKILL)

    for accident in (kill_api, kill_writer, kill_api, kill_api):
        goal = len(follower.texts) + 30
        follower.follow(lambda goal=goal: len(follower.texts) >= goal)  # type: ignore[misc]
        accident()
        follower.follow(lambda goal=goal: len(follower.texts) >= goal + 30)  # type: ignore[misc]
    sender.stopping.set()
    sender.join()
    end = time.monotonic() + 20
    follower.follow(
        lambda: set(sender.acknowledged) <= set(follower.texts) or time.monotonic() > end
    )
    assert set(sender.acknowledged) <= set(follower.texts)
    assert len(set(follower.texts)) == len(follower.texts)
    assert follower.ids == sorted(set(follower.ids))


def test_a_reading_arrives_within_a_second_and_a_shutdown_ends_the_stream(
    shared_stack: Stack, password: str
) -> None:
    stack = shared_stack
    send(stack, password, 0)
    with live_events(stack.port, password) as events:
        next(events)
        for text in range(1, 6):
            sent = time.monotonic()
            send(stack, password, text)
            while str(text) not in next(events).texts:
                pass
            assert time.monotonic() - sent < stretched(1)
        assert stack.api is not None
        stack.api.terminate()
        last = list(events)[-1]
        assert (last.name, last.data["code"]) == ("error", "unavailable")
    stack.api.wait(60)  # the next test needs another API


def test_a_stream_beyond_the_limit_is_refused_at_once(make_stack: MakeStack, password: str) -> None:
    """While the others are open; one that its client has left makes room."""
    stack = make_stack({"IOT_API_WORKERS": "1", "IOT_LIVE_LISTENERS_PER_CLIENT": "2"})
    send(stack, password, 1)
    wait_until(lambda: stack.read(password), what="the reading")
    body = json.dumps({"data": {"db_password": password}})
    with live_events(stack.port, password) as first:
        assert next(first).name == "open"
        with live_events(stack.port, password) as second:
            assert next(second).name == "open"
            refused = stack.request("POST", "/api/iot/live", body, JSON)
            assert (refused.status, refused.json()["reason"]) == (429, "live_streams")
            assert refused.headers["Retry-After"]
        with live_events(stack.port, password) as third:
            assert next(third).name == "open"
