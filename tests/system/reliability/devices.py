"""Devices that send numbered readings over open connections and record the acknowledgements."""

import itertools
import json
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from iot_sensor_client import Client, NoResponseError, Response
from support.waiting import wait_until

Row = dict[str, Any]


class BalancedClient:
    """A client with one connection to one of several servers, as behind a load balancer.

    The client goes to the next server when a connection is refused, or was closed before a request
    is sent on it. A request that was sent is not sent again: without a response, `ask` raises.
    """

    def __init__(self, ports: Sequence[int]) -> None:
        self._clients = [Client(f"http://127.0.0.1:{port}", timeout=30) for port in ports]
        self._next = itertools.cycle(self._clients)
        self._current: Client | None = None

    def ask(
        self, method: str, path: str, body: str | None = None, headers: dict[str, str] | None = None
    ) -> Response:
        """Send one request and return its response. Raises `NoResponseError`."""
        if self._current is None or not self._current.connected:
            self._current = next(self._next)
        refused = 0
        while True:
            try:
                return self._current.request(method, path, body, headers, repeatable=False)
            except NoResponseError as error:
                refused += 1
                nothing_sent = isinstance(error.__cause__, ConnectionRefusedError)
                if not nothing_sent or refused > len(self._clients):
                    raise
            self._current = next(self._next)

    def close(self) -> None:
        """Close the connection, if one is open."""
        for client in self._clients:
            client.close()


@dataclass
class Device:
    """A device that sends readings 0, 1, 2, ... under its own password until `stop`.

    With `repeats`, the device repeats a reading under an Idempotency-Key until it is acknowledged.
    Without `repeats`, the device sends each reading once.
    """

    password: str
    ports: Sequence[int]
    pause: float = 0.05
    repeats: bool = False
    sent: int = 0
    acknowledged: set[int] = field(default_factory=set)
    statuses: Counter[int] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Start to send readings."""
        self._thread.start()

    def stop(self) -> None:
        """Stop sending, and return after the last response."""
        self._stop.set()
        self._thread.join(60)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        client = BalancedClient(self.ports)
        try:
            while not self._stop.is_set():
                number = self.sent
                self.sent += 1
                while not self._send(client, number) and self.repeats:
                    if self._stop.wait(0.05):
                        return
                self._stop.wait(self.pause)
        finally:
            client.close()

    def _send(self, client: BalancedClient, number: int) -> bool:
        data = {"db_password": self.password, "interrogator_time": number, "freeform": number}
        headers = {"Content-Type": "application/json"}
        if self.repeats:
            headers["Idempotency-Key"] = f"{self.password} {number}"
        try:
            answer = client.ask("PUT", "/api/iot", json.dumps({"data": data}), headers)
        except NoResponseError as error:
            self.failures.append(f"reading {number}: {error!r}")
            return False
        self.statuses[answer.status] += 1
        if answer.status == 201:
            self.acknowledged.add(number)
        return answer.status == 201

    def check(self, rows: Sequence[Row]) -> None:
        """Check that acknowledged readings are stored once, others at most once, all in order."""
        numbers = [row["interrogator_timestamp"] for row in rows]
        assert [row["freeform"] for row in rows] == [str(number) for number in numbers]
        assert Counter(numbers).most_common(1)[0][1] == 1, "a reading is stored twice"
        assert self.acknowledged - set(numbers) == set(), "an acknowledged reading is lost"
        assert set(numbers) <= set(range(self.sent))
        ids = [row["id"] for row in rows]
        assert ids == sorted(ids), "the readings are out of order"


class Fleet:
    """Several devices that send concurrently."""

    def __init__(
        self, count: int, ports: Sequence[int], *, repeating: int = 0, name: str = "device"
    ) -> None:
        """The password of a device is `name` with its number."""
        self.devices = [
            Device(
                f"{name} {number}",
                [*ports[number % len(ports) :], *ports],
                repeats=number < repeating,
            )
            for number in range(count)
        ]

    def __enter__(self) -> "Fleet":
        for device in self.devices:
            device.start()
        self.go_on()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop all devices."""
        for device in self.devices:
            device.stop()

    @property
    def acknowledged(self) -> int:
        """Number of readings acknowledged so far."""
        return sum(len(device.acknowledged) for device in self.devices)

    def go_on(self, count: int = 3, *, seconds: float = 120) -> None:
        """Wait until every device has `count` more acknowledged readings."""
        before = [len(device.acknowledged) for device in self.devices]
        wait_until(
            lambda: all(
                len(device.acknowledged) >= begin + count
                for device, begin in zip(self.devices, before, strict=True)
            ),
            seconds=seconds,
            what="acknowledgements",
        )

    def assert_no_request_failed(self) -> None:
        """Check that every request of every device was answered 201."""
        for device in self.devices:
            assert not device.failures, device.failures
            assert set(device.statuses) == {201}, device.statuses

    def check(self, read: Callable[[str], Sequence[Row]], *, seconds: float = 120) -> None:
        """Check the readings of every device, when all are stored."""
        for device in self.devices:
            wait_until(
                lambda d=device: (
                    d.acknowledged  # type: ignore[misc]
                    <= {row["interrogator_timestamp"] for row in read(d.password)}
                ),
                seconds=seconds,
                what="every acknowledged reading",
            )
            device.check(read(device.password))
