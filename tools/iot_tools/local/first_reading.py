"""Checks that a reading sent now can be read back. Makes example commands for users."""

import json
import os
import shlex
import time
import uuid
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from iot_sensor_client import Client, ClientError
from iot_tools.devices.sensors import Schedule, Sensor

_PROXIES = ("http_proxy", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")
"""Environment variables that make curl use a proxy, even for the loopback address."""
_EXAMPLE_PASSWORD = "my-password"  # noqa: S105 -- an example, printed for all to see


class FirstReading:
    """Checks that a reading taken at `since` or later can be read back.

    `since` is Unix time in seconds. With `send`, this object sends the reading; otherwise it waits
    for a reading of a simulated device.
    """

    def __init__(self, client: Client, *, since: float, send: bool) -> None:
        self._client = client
        self._since = since
        self._sensor = Sensor(0, Schedule(rate=1_000_000), time.time, limit=1) if send else None
        self._taken: list[dict[str, Any]] = []
        """The reading of the sensor; empty until the sensor has taken it."""
        self._key = str(uuid.uuid4())
        self.refused = False
        """Whether the service refused the token, or required one."""

    def is_back(self) -> bool:
        """Return whether a reading taken at `since` or later can be read back.

        With `send`, first send the reading, unless the service has acknowledged it. If a request
        fails, return False; `refused` then says whether the token was refused or missing.
        """
        try:
            self._send()
            rows = self._client.read(last=1)
        except ClientError as error:
            self.refused = error.status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}
            return False
        return any(row["interrogator_timestamp"] >= self._since * 1_000_000 for row in rows)

    def wait(self, pause: Callable[[float], None], patience: float) -> bool:
        """Repeat `is_back` until it returns True.

        Return False after `patience` seconds, or immediately if the token is refused or missing.
        Between two attempts, call `pause` with the seconds to sleep; its exceptions pass through.
        """
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            if self.is_back():
                return True
            if self.refused:
                return False
            pause(0.05)
        return False

    def _send(self) -> None:
        if self._sensor is None:
            return
        self._taken = self._taken or self._sensor.due()
        if self._taken:
            self._client.put_readings(self._taken, idempotency_key=self._key)
            self._sensor = None


def curl_that_sends(url: str, *, token: bool = False) -> str:
    """Return a shell command that stores one reading."""
    now = round(time.time() * 1_000_000)
    freeform = {"rssi": -61, "epc96": "000011112222333344445555", "antenna": 1}
    data = {"db_password": _EXAMPLE_PASSWORD, "relative_time": 0, "interrogator_time": now}
    return _curl("PUT", f"{url}/api/iot", {"data": {**data, "freeform": freeform}}, token=token)


def curl_that_reads(url: str, password: str = _EXAMPLE_PASSWORD, *, token: bool = False) -> str:
    """Return a shell command that shows the last reading stored under a password."""
    body = {"data": {"db_password": password}}
    return _curl("POST", f"{url}/api/iot/last/1", body, token=token)


def _curl(method: str, url: str, body: object, *, token: bool) -> str:
    options = ["-k"] if url.startswith("https:") else []
    header = "Content-Type: application/json"
    if any(os.environ.get(name) for name in _PROXIES):
        options += ["--noproxy", "*"]
    command = ["curl", "-sS", *options, "-X", method, url, "-H", header, "-d", json.dumps(body)]
    # The shell expands the variable: the token must not be printed.
    return shlex.join(command) + (' -H "Authorization: Bearer $IOT_TOKEN"' if token else "")
