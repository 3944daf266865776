"""API and writer as processes, whose answers and logs are checked while a store fails."""

import itertools
import json
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from iot_sensor_client import Response
from support.stack import Stack
from support.waiting import stretched, wait_until

RECOVERY_SECONDS = 5.0
"""Time limit after which PUTs must be acknowledged again."""
MAX_LINES = 40
"""Limit on the log lines of both processes during one state."""


@dataclass
class Sent:
    """The readings that a device sent under one password."""

    password: str
    acknowledged: list[int] = field(default_factory=list)


class Running:
    """The service and its acknowledged readings."""

    def __init__(self, environment: Mapping[str, str], logs: Path) -> None:
        self.stack = Stack(environment, logs, metrics=True)
        self._logs = logs
        self._marks: dict[str, int] = {}
        self.devices: dict[str, Sent] = {}
        self._run = secrets.token_hex(4)
        self._numbers = itertools.count()

    def start(self) -> None:
        """Start both processes, and return when the writer has stored a reading."""
        self.stack.start_api("--workers", "1")  # each worker reports its own observations
        self.stack.start_writer()
        answer = self.put("first")
        assert answer.status == 201, answer
        wait_until(lambda: self._is_stored(self.devices["first"]), what="a reading")

    def put(self, password: str) -> Response:
        """Send one reading."""
        device = self.devices.setdefault(password, Sent(f"{password} of {self._run}"))
        number = next(self._numbers)
        row = {"data": {"db_password": device.password, "interrogator_time": number}}
        answer = self.stack.put([row])
        if b"not set up" in answer.body:
            # The log has the reason. /readyz would probe Redis again, which could end the state.
            print((self._logs / "api.log").read_text(encoding="utf-8"))
        if answer.status == 201:
            device.acknowledged.append(number)
        return answer

    def ready(self) -> dict[str, str]:
        """Return the readiness of the API."""
        told: dict[str, str] = self.stack.request("GET", "/readyz").json()
        return told

    def mark(self) -> None:
        """Ignore earlier readings and log lines in the following checks."""
        self.devices.clear()
        self._marks = {path.name: path.stat().st_size for path in self._logs.glob("*.log")}

    def log(self, process: str) -> str:
        """Return the log of a process since `mark`."""
        path = self._logs / f"{process}.log"
        return path.read_bytes()[self._marks.get(path.name, 0) :].decode()

    def assert_refused(self, password: str, store: str, code: str) -> None:
        """Check that a PUT is 503 with the documented error."""
        answer = self.put(password)
        said = answer.json()
        assert (answer.status, said["code"]) == (503, "unavailable"), said
        assert answer.headers["Retry-After"] == "1"
        assert store in said["error"]
        assert code in said["error"], said

    def assert_acknowledged_again(self, *passwords: str) -> None:
        """Check that PUTs are acknowledged in time."""
        began = time.monotonic()
        for password in passwords:
            wait_until(
                lambda password=password: self.put(password).status == 201,  # type: ignore[misc]
                what="a PUT that is acknowledged",
            )
        assert time.monotonic() - began < stretched(RECOVERY_SECONDS)

    def assert_all_stored(self) -> None:
        """Check that acknowledged readings are stored once, and that no process died or logged a
        defect.
        """
        for device in self.devices.values():
            wait_until(lambda device=device: self._is_stored(device), what="all readings")  # type: ignore[misc]
        assert self.stack.api is not None
        for process in (self.stack.api, *self.stack.writers):
            assert process.poll() is None
        for name in ("api", "writer-0"):
            assert "Traceback" not in self.log(name), self.log(name)[-4000:]
        assert sum(self.log(name).count("\n") for name in ("api", "writer-0")) < MAX_LINES

    def _is_stored(self, device: Sent) -> bool:
        if not device.acknowledged:
            return True
        body = json.dumps({"data": {"db_password": device.password}})
        answer = self.stack.request("POST", "/api/iot", body, {"Content-Type": "application/json"})
        if answer.status != 200:
            return False
        read = [row["interrogator_timestamp"] for row in answer.json()["data"]]
        assert len(read) == len(set(read)), "a reading is stored twice"
        return set(device.acknowledged) <= set(read)


@contextmanager
def running_service(environment: Mapping[str, str], logs: Path) -> Iterator[Running]:
    """Run the service until the block ends."""
    running = Running(environment, logs)
    try:
        running.start()
        yield running
    finally:
        running.stack.stop()
