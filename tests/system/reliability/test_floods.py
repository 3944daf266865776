"""Floods of unknown passwords: what they may cost, and that devices go on beside them.

The counts hold on any machine. `make bench` measures the times.
"""

import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPConnection
from itertools import count

import pytest

from integration.api.asking import JSON, row
from integration.api.test_metrics import value
from integration.writer.sending import sending
from iot_api.http.refusal_pace import PER_SECOND
from iot_api.limits.clients import Client
from iot_models.settings import load
from support.stack import MakeStack, Stack
from support.waiting import stretched, wait_until

WORKERS = 2
GUESS_LIMIT = 20
CONNECTIONS = 24
SECONDS = 3.0
KINDS = ["reads", "puts", "many"]
DEVICE = "127.0.0.3"
"""The address of the devices whose vaults are not open."""
_numbers = count()


class Flood:
    """Clients at one address that send as fast as they are answered, until `end`."""

    def __init__(self, stack: Stack, kind: str) -> None:
        self._stack = stack
        self._kind = kind
        self._ends = threading.Event()
        self.statuses: Counter[int] = Counter()
        self._threads = [threading.Thread(target=self._send) for _ in range(CONNECTIONS)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        self._ends.set()
        for thread in self._threads:
            thread.join()

    def _send(self) -> None:
        connection = HTTPConnection("127.0.0.1", self._stack.port, timeout=60)
        while not self._ends.is_set():
            connection.request(*self._request(), JSON)
            answer = connection.getresponse()
            answer.read()
            self.statuses[answer.status] += 1
        connection.close()

    def _request(self) -> tuple[str, str, str]:
        if self._kind == "reads":
            return "POST", "/api/iot", json.dumps(row(f"wrong {next(_numbers)}"))
        rows = 1 if self._kind == "puts" else 1000
        return "PUT", "/api/iot", json.dumps([row(f"new {next(_numbers)}") for _ in range(rows)])


def create_vaults(environment: Mapping[str, str], passwords: Iterable[str]) -> None:
    """Create vaults without the API, which has none of them open."""
    with sending(load(environment)) as sender:
        for password in passwords:
            sender.service.vaults.find_or_create(password.encode(), Client(DEVICE))


@contextmanager
def flooded(stack: Stack, kind: str) -> Iterator[Flood]:
    flood = Flood(stack, kind)
    flood.start()
    try:
        wait_until(lambda: flood.statuses.total() > CONNECTIONS, what="a flood")
        yield flood
    finally:
        flood.end()


class Device:
    """A device at its own address."""

    def __init__(self, stack: Stack, address: str, password: str) -> None:
        self._connection = HTTPConnection(
            "127.0.0.1", stack.port, timeout=60, source_address=(address, 0)
        )
        self._body = json.dumps(row(password))

    def __enter__(self) -> "Device":
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def send(self) -> int:
        """Send a reading; return the status."""
        self._connection.request("PUT", "/api/iot", self._body, JSON)
        answer = self._connection.getresponse()
        answer.read()
        return answer.status


def send_once(stack: Stack, password: str) -> int:
    with Device(stack, DEVICE, password) as device:
        return device.send()


@pytest.mark.parametrize("kind", KINDS)
def test_a_flood_is_bounded_and_devices_go_on(
    make_stack: MakeStack, environment: dict[str, str], kind: str
) -> None:
    """No reading of a device is refused, whether or not its vault is open."""
    settings = {
        "IOT_API_WORKERS": f"{WORKERS}",
        "IOT_GUESS_LIMIT": f"{GUESS_LIMIT}",
        "IOT_MAX_PASSWORDS": "1000",
        "IOT_SCRYPT_LOG2_N": "14",
    }
    closed = [f"closed {number}" for number in range(3)]
    create_vaults(environment | settings, closed)
    stack = make_stack(settings, metrics=True)
    before = value(stack, "iot_scrypts_total")
    began = time.monotonic()
    with Device(stack, "127.0.0.2", "open") as device, flooded(stack, kind) as flood:
        sent = 0
        while time.monotonic() < began + SECONDS:
            assert device.send() == 201
            sent += 1
        assert [send_once(stack, password) for password in closed] == [201] * 3
    seconds = time.monotonic() - began
    cost = value(stack, "iot_scrypts_total") - before
    print(f"{kind}: {sent} readings, {cost:.0f} scrypts, {flood.statuses}, {seconds:.1f} s")
    minutes = 1 + seconds // 60
    # The devices' vaults are opened once in each process. A process may begin two more scrypts
    # before the limit is known there.
    devices = WORKERS * 4
    assert cost <= minutes * (GUESS_LIMIT + 2 * WORKERS) + devices
    errors = sum(times for status, times in flood.statuses.items() if status >= 400)
    assert flood.statuses.keys() <= {200, 201, 429}
    assert errors <= WORKERS * PER_SECOND * (seconds + 1) + WORKERS * CONNECTIONS
    assert len(stack.workers()) == WORKERS


def test_a_delayed_error_delays_no_shutdown_and_frees_its_connection(
    make_stack: MakeStack,
) -> None:
    """Errors that wait are sent at SIGTERM; a delayed connection makes room for a new one."""
    stack = make_stack({"IOT_API_WORKERS": "1", "IOT_API_CONNECTIONS": "100"}, writers=0)
    bad = b"PUT /api/iot HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx"
    held = [socket.create_connection(("127.0.0.1", stack.port), timeout=30) for _ in range(49)]
    for client in held:
        client.sendall(20 * bad)
    answered = Counter[bytes]()
    for client in held[:1]:
        answered[client.recv(2**16)[:12]] += 1
    assert stack.request("GET", "/healthz").status == 200
    began = time.monotonic()
    assert stack.api is not None
    stack.api.stop()
    assert time.monotonic() - began < stretched(15)
    assert answered.keys() == {b"HTTP/1.1 400"}
    for client in held:
        client.close()
