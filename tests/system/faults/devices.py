"""Devices that send numbered readings, each over its own connection, as careful clients do."""

import random
import threading
import time
import uuid
from collections.abc import Callable, Sequence

from iot_sensor_client import Client, NoResponseError
from system.faults.account import Request
from system.faults.readings import body

ANSWER_SECONDS = 10.0
"""Timeout of a request."""
REPEAT_SECONDS = 30.0
"""How long a device repeats a request under its Idempotency-Key."""
PAUSE_SECONDS = 0.1

_SIZES = ((1, 4), (5, 10), (10, 100), (100, 1000))


class Pace:
    """A limit on the rate of acknowledged readings over the run."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._began = time.monotonic()
        self._under_way = 0
        self._lock = threading.Lock()
        self.acknowledged = 0

    def begin(self, readings: int) -> bool:
        """Return whether readings may be sent now. If so, they are in flight until `end`."""
        with self._lock:
            due = self._rate * (time.monotonic() - self._began)
            if self.acknowledged + self._under_way > due:
                return False
            self._under_way += readings
            return True

    def end(self, readings: int, *, acknowledged: bool) -> None:
        """Record the result of readings in flight."""
        with self._lock:
            self._under_way -= readings
            self.acknowledged += readings if acknowledged else 0


class Device(threading.Thread):
    """A device that sends readings until it is stopped. With `repeats`, the device repeats each
    request under its `Idempotency-Key` until it is acknowledged, and otherwise never.
    """

    def __init__(
        self,
        number: int,
        port: int,
        pace: Pace,
        passwords: Callable[[], Sequence[str]],
        *,
        seed: str,
        steady: bool,
        repeats: bool,
    ) -> None:
        super().__init__(name=f"device-{number}", daemon=True)
        self.requests: list[Request] = []
        self._number = number
        self._pace = pace
        self._passwords = passwords
        self._random = random.Random(f"{seed} {number}")
        self._steady = steady
        self._repeats = repeats
        self._client = Client(f"http://127.0.0.1:{port}", timeout=ANSWER_SECONDS)
        self._next = 0
        self._stopping = threading.Event()

    def run(self) -> None:
        """Send due readings; after a failure, and if `steady`, a small request every 0.1 s."""
        small = self._steady
        while not self._stopping.is_set():
            if small:
                self._stopping.wait(PAUSE_SECONDS)
            low, high = self._random.choice(_SIZES[:1] if small else _SIZES)
            count = self._random.randint(low, high)
            while not (small or self._pace.begin(count) or self._stopping.is_set()):
                self._stopping.wait(PAUSE_SECONDS / 4)
            acknowledged = self._send_one(count)
            self._pace.end(0 if small else count, acknowledged=acknowledged)
            small = self._steady or not acknowledged
        self._client.close()

    def stop(self) -> None:
        """Stop after the current request."""
        self._stopping.set()

    def send_to_each(self) -> None:
        """Send one reading under each password in this thread. The device must not be running."""
        for each in range(len(self._passwords())):
            self._send(1, [each])
        self._client.close()

    def _send_one(self, count: int) -> bool:
        known = range(len(self._passwords()))
        return self._send(
            count, self._random.sample(known, 2 if self._random.random() < 0.1 else 1)
        )

    def _send(self, count: int, used: Sequence[int]) -> bool:
        known = self._passwords()
        request = Request(self._number, self._next, count, tuple(used), time.monotonic())
        self._next += request.count
        self.requests.append(request)
        content = body(self._number, request.first, request.count, [known[each] for each in used])
        headers = {"Content-Type": "application/json"}
        if self._repeats:
            headers["Idempotency-Key"] = uuid.uuid4().hex
        request.status = self._status_of(content, headers)
        while self._repeats and not request.acknowledged and self._goes_on(request):
            self._stopping.wait(PAUSE_SECONDS)
            request.attempts += 1
            request.status = self._status_of(content, headers)
        request.answered_at = time.monotonic()
        return request.acknowledged

    def _goes_on(self, request: Request) -> bool:
        return time.monotonic() - request.sent_at < REPEAT_SECONDS

    def _status_of(self, content: bytes, headers: dict[str, str]) -> int:
        """Send a request once, and return the status of the response, 0 without a response."""
        try:
            return self._client.request(
                "PUT", "/api/iot", content, headers, repeatable=False
            ).status
        except NoResponseError:
            return 0
