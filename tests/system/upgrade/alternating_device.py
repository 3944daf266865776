"""Devices that send their readings alternately to several API servers."""

import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from typing import Any

from iot_sensor_client import NoResponseError, Response
from support.stack import Stack

JSON = {"Content-Type": "application/json"}
REPEAT_EVERY = 3
STRIDE = 1001
"""Devices that share a password start at different multiples of this number. The number is odd, so
that neighbours start with different servers."""


class AlternatingDevice:
    """A device that sends numbered readings one by one, each with an Idempotency-Key.

    The device repeats an unacknowledged request at the next server. It also repeats every third
    acknowledged request, like a client that lost the response.
    """

    def __init__(self, password: str, place: int, servers: Sequence[Stack]) -> None:
        self.password = password
        self.servers = list(servers)
        self.sent: list[int] = []
        """Numbers of the acknowledged readings."""
        self._numbers: Iterator[int] = count(place * STRIDE)

    def send(self, readings: int) -> None:
        """Send the next readings, each in its own request."""
        for _ in range(readings):
            self.send_with([])

    def send_until(self, stopped: threading.Event) -> None:
        """Send readings until an event is set."""
        while not stopped.wait(0.005):
            self.send(1)

    def send_with(self, others: Sequence["AlternatingDevice"]) -> None:
        """Send the next reading of this device and of each other device in one request."""
        devices = [self, *others]
        numbers = [device.next_number() for device in devices]
        rows = [device.row(number) for device, number in zip(devices, numbers, strict=True)]
        body, key = json.dumps(rows), numbers[0]
        first = self._send_to_any(body, key, start=key)
        for device, number in zip(devices, numbers, strict=True):
            device.sent.append(number)
        if key % REPEAT_EVERY == 0:
            again = self._send_to_any(body, key, start=key + 1)
            assert again.body == first.body
            assert again.headers["Idempotent-Replayed"] == "true", key

    def next_number(self) -> int:
        """Return the number of the next reading."""
        return next(self._numbers)

    def row(self, number: int) -> dict[str, Any]:
        """Return a reading, as the API expects it."""
        data = {"db_password": self.password, "interrogator_time": number, "freeform": number}
        return {"data": data}

    def _send_to_any(self, body: str, key: int, *, start: int) -> Response:
        """Send a request to the servers in turn, and return the first acknowledgement."""
        failures: list[object] = []
        for offset in range(2 * len(self.servers)):
            server = self.servers[(start + offset) % len(self.servers)]
            try:
                answer = self._put(server, body, key)
            except NoResponseError as error:
                failures.append(error)
                continue
            if answer.status == 201:
                return answer
            failures.append(answer)
        raise AssertionError(f"reading {key} was not acknowledged: {failures}")

    def _put(self, server: Stack, body: str, key: int) -> Response:
        return server.request("PUT", "/api/iot", body, {**JSON, "Idempotency-Key": str(key)})


def check(rows: Sequence[Mapping[str, Any]], devices: Sequence[AlternatingDevice]) -> None:
    """Check that all readings of devices that share a password are stored once and in order.

    Ids grow in the order of arrival, so the ids of one device grow with its numbers.
    """
    numbers = [row["interrogator_timestamp"] for row in rows]
    assert numbers == sorted(number for device in devices for number in device.sent)
    assert [row["freeform"] for row in rows] == [str(number) for number in numbers]
    ids = {row["interrogator_timestamp"]: row["id"] for row in rows}
    assert len(set(ids.values())) == len(rows)
    for device in devices:
        of_device = [ids[number] for number in device.sent]
        assert of_device == sorted(of_device)
