"""Back-pressure: clients send more than the writers drain, for any length of time."""

import base64
import json
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis

from iot_models.settings import load
from iot_sensor_client import Response
from iot_stores.redis_client import connect_redis
from support.keys import KEYS
from support.processes import children
from support.stack import Stack
from support.waiting import stretched, wait_until

LIMIT = 2**20
CLIENTS = 4
SECONDS = 6.0
PAUSE = 0.3


@pytest.fixture
def narrow(environment: dict[str, str], tmp_path: Path) -> Iterator[Stack]:
    """A service with a backlog of at most 1 MiB."""
    limits = {"IOT_BACKLOG_MAX_BYTES": str(LIMIT), "IOT_HOT_WINDOW_SECONDS": "0"}
    stack = Stack({**environment, **limits}, tmp_path, forked=False)
    try:
        stack.start_api()
        stack.start_writer()
        yield stack
    finally:
        for writer in stack.writers:
            writer.kill(signal.SIGCONT)
        stack.stop()


class _Client(threading.Thread):
    """A client that sends incompressible readings at full speed."""

    def __init__(self, stack: Stack, number: int, end: float) -> None:
        super().__init__()
        self.password = f"client {number}"
        self.acknowledged: list[str] = []
        self.refused: list[Response] = []
        self.slowest = 0.0
        self._stack = stack
        self._random = random.Random(number)
        self._end = end

    def run(self) -> None:
        sent = 0
        while time.monotonic() < self._end:
            texts = [f"{sent + each} {self._noise()}" for each in range(20)]
            rows = [{"data": {"db_password": self.password, "freeform": text}} for text in texts]
            began = time.monotonic()
            answer = self._stack.put(rows)
            self.slowest = max(self.slowest, time.monotonic() - began)
            if answer.status == 201:
                self.acknowledged += texts
            else:
                self.refused.append(answer)
            sent += 20

    def _noise(self) -> str:
        return base64.b64encode(self._random.randbytes(600)).decode()


def memory(process_id: int) -> int:
    """Return the resident memory of a process, in bytes."""
    pages = Path(f"/proc/{process_id}/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def test_overload_is_refused_and_acknowledged_readings_are_stored(
    narrow: Stack, environment: dict[str, str]
) -> None:
    for number in range(CLIENTS):
        narrow.put([{"data": {"db_password": f"client {number}", "freeform": "first"}}])
    (writer,) = narrow.writers
    redis = connect_redis(load(environment))
    assert narrow.api is not None
    before = {process: memory(process) for process in children(narrow.api.pid)}
    end = time.monotonic() + SECONDS
    clients = [_Client(narrow, number, end) for number in range(CLIENTS)]
    for client in clients:
        client.start()
    held = _work_a_third_of_the_time(writer.pid, redis, end)
    for client in clients:
        client.join()
    assert max(held) <= LIMIT
    assert max(held) > LIMIT // 2
    grown = {process: memory(process) - before[process] for process in before}
    assert max(grown.values()) < 64 * 2**20, grown
    refused = [answer for client in clients for answer in client.refused]
    assert refused
    assert {answer.status for answer in refused} == {503}
    assert all(1 <= int(answer.headers["Retry-After"]) <= 60 for answer in refused)
    assert max(client.slowest for client in clients) < stretched(SECONDS)
    wait_until(lambda: redis.hget(KEYS.backlog_counters, "bytes") == b"0")
    for client in clients:
        rows = [json.loads(row["freeform"]) for row in narrow.read(client.password)]
        assert rows == ["first", *client.acknowledged]
    redis.close()


def _work_a_third_of_the_time(process_id: int, redis: "Redis", end: float) -> list[int]:
    """Let the writer run a third of the time, and return the sizes of the backlog."""
    held = []
    while time.monotonic() < end:
        os.kill(process_id, signal.SIGSTOP)
        time.sleep(2 * PAUSE)
        held.append(int(redis.hget(KEYS.backlog_counters, "bytes") or 0))
        os.kill(process_id, signal.SIGCONT)
        time.sleep(PAUSE)
    return held
