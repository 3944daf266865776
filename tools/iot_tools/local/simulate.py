"""Simulated devices that send readings to a service."""

import logging
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from iot_sensor_client import Client, RejectedError, RetryableError, RetryPolicy
from iot_tools.cli.shutdown_signals import ShutdownSignals

from .interrogator import Interrogator
from .outbox import Batch, Outbox

_log = logging.getLogger(__name__)

_TICK_SECONDS = 0.5
_BATCH_READINGS = 500
_CAPACITY = 200_000
"""Readings that a device keeps while the service is away."""
_MAX_PAUSE_SECONDS = 10.0
_REPORT_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True)
class Simulation:
    """What to send: `rate` readings/s from each device, without end or `readings` from each."""

    url: str
    password: str
    devices: int = 1
    rate: float = 10.0
    readings: int | None = None
    insecure: bool = False
    """Whether to accept every certificate."""
    token: str = field(default="", repr=False)
    tls_context: ssl.SSLContext | None = None

    def client(self) -> Client:
        """Return a client for one device."""
        context = self.tls_context
        if self.insecure:
            context = context or ssl.create_default_context()
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        # A device takes readings between two attempts, so it repeats requests itself.
        once = RetryPolicy(max_attempts=1)
        return Client(self.url, self.password, self.token, retry=once, tls_context=context)


class SimulatedDevice:
    """A device that sends the readings of one interrogator, in order.

    The device keeps readings until they are acknowledged, so a restart of the service loses none.
    Its memory is bounded: if the service stays away, it drops the oldest readings and logs that.
    """

    def __init__(
        self,
        name: str,
        interrogator: Interrogator,
        client: Client,
        *,
        capacity: int = _CAPACITY,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self.sent = 0
        self.outbox = Outbox(capacity)
        self._interrogator = interrogator
        self._client = client
        self._clock = clock
        self._failures = 0
        self._failing_since = 0.0
        self._retry_at = 0.0

    @property
    def finished(self) -> bool:
        """Whether all readings of a limited simulation are acknowledged."""
        return self._interrogator.finished and self.outbox.first() is None

    def run(self, stop: threading.Event) -> None:
        """Send until `stop` is set, or until finished. Then try once to send what is left."""
        report_at = self._clock() + _REPORT_SECONDS
        while not self.finished and not stop.wait(_TICK_SECONDS):
            self.step()
            if self._clock() >= report_at:
                report_at += _REPORT_SECONDS
                _log.info("%s: %d readings sent so far", self.name, self.sent)
        self._retry_at = 0.0
        self.step()
        self._client.close()
        _log.info("%s: %d sent, %d not sent", self.name, self.sent, self.outbox.waiting)

    def step(self) -> None:
        """Take the readings that are due. Send all that wait, unless it is too early to retry."""
        readings = self._interrogator.due()
        dropped = self.outbox.dropped
        for start in range(0, len(readings), _BATCH_READINGS):
            self.outbox.add(Batch(readings[start : start + _BATCH_READINGS]))
        if self.outbox.dropped > dropped:
            _log.error(
                "%s: the outbox is full, %d readings dropped so far", self.name, self.outbox.dropped
            )
        if self._clock() >= self._retry_at:
            self._send_waiting()

    def _send_waiting(self) -> None:
        while batch := self.outbox.first():
            try:
                self._client.put_readings(batch.readings, idempotency_key=batch.key)
                self.sent += len(batch.readings)
            except RetryableError as error:
                self._schedule_retry(error)
                return
            except RejectedError as error:
                _log.error("%s: %d readings rejected: %s", self.name, len(batch.readings), error)
            self.outbox.remove_first()
            self._reset_failures()

    def _schedule_retry(self, error: RetryableError) -> None:
        now = self._clock()
        if self._failures == 0:
            self._failing_since = now
            waiting = self.outbox.waiting
            _log.warning("%s: requests fail, keeping %d readings: %s", self.name, waiting, error)
        pause = error.retry_after or min(_MAX_PAUSE_SECONDS, _TICK_SECONDS * 2**self._failures)
        self._failures = min(self._failures + 1, 10)
        self._retry_at = now + pause

    def _reset_failures(self) -> None:
        if self._failures:
            _log.info(
                "%s: requests succeed again after %.1f s, %d readings wait",
                self.name,
                self._clock() - self._failing_since,
                self.outbox.waiting,
            )
        self._failures = 0


def simulate(simulation: Simulation) -> int:
    """Run the devices until SIGINT, SIGTERM or the last reading. Return 0 if all arrived."""
    stop = threading.Event()
    devices = [
        SimulatedDevice(
            f"device {number}",
            Interrogator(number, simulation.rate, time.time, simulation.readings),
            simulation.client(),
        )
        for number in range(1, simulation.devices + 1)
    ]
    _log.info(
        "%d devices, %g readings/s each, to %s", len(devices), simulation.rate, simulation.url
    )
    threads = [threading.Thread(target=device.run, args=(stop,)) for device in devices]
    with ShutdownSignals() as signals:
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads) and not signals.requested:
            signals.pause(_TICK_SECONDS)
        stop.set()
        for thread in threads:
            thread.join()
    return 1 if any(device.outbox.waiting or device.outbox.dropped for device in devices) else 0
