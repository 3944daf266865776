"""Under concurrent attacks, workers survive, memory is bounded, and devices are served."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from iot_sensor_client import Client
from support.stack import MakeStack, Stack
from support.waiting import stretched

SECONDS = float(os.environ.get("IOT_TEST_SIEGE_SECONDS", "10"))
"""Duration. For reliable figures: `IOT_TEST_SIEGE_SECONDS=60 make test T=...`."""
POD_MIB = 1024
"""The memory limit of the chart's API pod."""
HEALTH_SECONDS = 5.0
"""Limit on the time of a probe, for a busy machine. The test prints the measured time."""
BODY = json.dumps({"data": {"db_password": "device", "freeform": 1}})
JSON = {"Content-Type": "application/json"}
TESTS = Path(__file__).parents[2]


@pytest.fixture
def api(make_stack: MakeStack) -> Iterator[Stack]:
    """An API with default settings, the default cost of scrypt and an open vault."""
    stack = make_stack({"IOT_SCRYPT_LOG2_N": "17"}, forked=False)
    for _ in range(20):
        assert stack.request("PUT", "/api/iot", BODY, JSON).status == 201
    yield stack
    # On SIGTERM, the API would serve the attackers until the graceful timeout.
    assert stack.api is not None
    stack.api.kill()


class Watch(threading.Thread):
    """A thread that requests /healthz and measures the memory of the workers until `stop`."""

    def __init__(self, stack: Stack) -> None:
        super().__init__(daemon=True)
        assert stack.api is not None
        self._stack = stack
        self._stopping = threading.Event()
        self._workers = stack.workers()
        self.slowest = 0.0
        self.statuses: set[int] = set()
        self.max_mib = 0.0

    def run(self) -> None:
        while not self._stopping.wait(0.1):
            began = time.monotonic()
            self.statuses.add(self._stack.request("GET", "/healthz").status)
            self.slowest = max(self.slowest, time.monotonic() - began)
            self.max_mib = max(self.max_mib, sum(map(_pss_mib, self._workers)))

    def stop(self) -> None:
        self._stopping.set()
        self.join(60)


def _pss_mib(pid: int) -> float:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("Pss:"))


@contextmanager
def besieged(stack: Stack) -> Iterator["subprocess.Popen[str]"]:
    command = [sys.executable, "-m", "system.reliability.siege", str(stack.port), str(SECONDS)]
    environment = {**os.environ, "PYTHONPATH": str(TESTS)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        yield process


def requests_per_second(stack: Stack, seconds: float) -> float:
    """Return the rate of acknowledged requests of one device on one connection."""
    count, began = 0, time.monotonic()
    with Client(stack.url, timeout=30) as client:
        while time.monotonic() - began < seconds:
            response = client.request("PUT", "/api/iot", BODY, JSON, repeatable=False)
            assert response.status == 201, response.body
            count += 1
    return count / (time.monotonic() - began)


def test_the_api_serves_devices_under_all_attacks(api: Stack) -> None:
    assert api.api is not None
    workers = api.workers()
    alone = requests_per_second(api, SECONDS / 4)
    watch = Watch(api)
    watch.start()
    with besieged(api) as siege:
        time.sleep(1)  # there is no condition to wait for: the attack continues all the time
        under_siege = requests_per_second(api, SECONDS - 2)
        got = json.loads(siege.communicate(timeout=120)[0])
    watch.stop()
    share = under_siege / alone
    print(f"a device keeps {share:.0%} of {alone:.0f} requests/s; health: {watch.slowest:.2f} s; "
          f"workers: {watch.max_mib:.0f} MiB; attackers: {got}")  # fmt: skip
    assert api.workers() == workers
    assert watch.statuses == {200}
    assert watch.slowest < stretched(HEALTH_SECONDS)
    assert watch.max_mib < POD_MIB
    assert not any(name.endswith(" 500") for name in got), got
