"""A simulated device: it sends the readings of one sensor, and keeps them until they arrive."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from iot_sensor_client import Client, RejectedError, RetryableError

from .dropping_queue import Batch, DroppingQueue
from .sensors import Sensor

_log = logging.getLogger(__name__)

_TICK_SECONDS = 0.5
MAX_BATCH = 500
"""Default maximum of the readings in a request."""
_CAPACITY = 200_000
"""Default maximum of the readings that a device keeps while the service is away."""
_MAX_PAUSE_SECONDS = 10.0
_LATENCIES = 100_000


@dataclass(slots=True)
class Counts:
    """How many readings and requests of a device succeeded or failed."""

    acknowledged: int = 0
    """Readings that the service acknowledged."""
    rejected: int = 0
    """Readings that the service will never accept."""
    requests: int = 0
    """Requests that were acknowledged."""
    failures: int = 0
    """Requests that failed, but may succeed when they are sent again."""
    latencies: deque[float] = field(default_factory=lambda: deque(maxlen=_LATENCIES))
    """Seconds from a request to its acknowledgement, of the newest requests."""


class Device:
    """Sends the readings of one sensor, in order, and keeps them until they are acknowledged.

    So a restart of the service loses no reading. If the service stays away, the device drops and
    logs the oldest readings, because its memory is bounded.
    """

    def __init__(
        self,
        name: str,
        sensor: Sensor,
        client: Client,
        *,
        batch: int = MAX_BATCH,
        capacity: int = _CAPACITY,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """A request has at most `batch` readings. The device keeps at most `capacity` readings."""
        self.name = name
        self.counts = Counts()
        self.queue = DroppingQueue(capacity)
        self._sensor = sensor
        self._client = client
        self._batch = batch
        self._clock = clock
        self._failing = 0
        self._failing_since = 0.0
        self._retry_at = 0.0

    @property
    def finished(self) -> bool:
        """Whether the sensor has taken its last reading, and no reading waits to be sent."""
        return self._sensor.finished and self.queue.first() is None

    def run(self, stop: threading.Event, *, every: float = _TICK_SECONDS) -> None:
        """Call `step` every `every` seconds until `stop` is set, or the device has finished.

        Then try once more to send the readings that are left, and close the client.
        """
        while not self.finished and not stop.wait(every):
            self.step()
        self._retry_at = 0.0
        self.step()
        self._client.close()

    def step(self) -> None:
        """Queue the readings that are due, then send all readings in the queue.

        After a failed request, send nothing until the pause before the retry is over.
        """
        readings = self._sensor.due()
        dropped = self.queue.dropped
        for start in range(0, len(readings), self._batch):
            self.queue.add(Batch(readings[start : start + self._batch]))
        if self.queue.dropped > dropped:
            _log.error(
                "%s: the queue is full, %d readings dropped so far", self.name, self.queue.dropped
            )
        if self._clock() >= self._retry_at:
            self._send_waiting()

    def _send_waiting(self) -> None:
        while batch := self.queue.first():
            began = time.perf_counter()
            try:
                self._client.put_readings(batch.readings, idempotency_key=batch.key)
            except RetryableError as error:
                self.counts.failures += 1
                self._schedule_retry(error)
                return
            except RejectedError as error:
                self.counts.rejected += len(batch.readings)
                _log.error("%s: %d readings rejected: %s", self.name, len(batch.readings), error)
            else:
                self.counts.latencies.append(time.perf_counter() - began)
                self.counts.acknowledged += len(batch.readings)
                self.counts.requests += 1
            self.queue.remove_first()
            self._reset_failures()

    def _schedule_retry(self, error: RetryableError) -> None:
        now = self._clock()
        if self._failing == 0:
            self._failing_since = now
            waiting = self.queue.waiting
            _log.warning("%s: requests fail, keeping %d readings: %s", self.name, waiting, error)
        pause = error.retry_after or min(_MAX_PAUSE_SECONDS, _TICK_SECONDS * 2**self._failing)
        self._failing = min(self._failing + 1, 10)
        self._retry_at = now + pause

    def _reset_failures(self) -> None:
        if self._failing:
            _log.info(
                "%s: requests succeed again after %.1f s, %d readings wait",
                self.name,
                self._clock() - self._failing_since,
                self.queue.waiting,
            )
        self._failing = 0
