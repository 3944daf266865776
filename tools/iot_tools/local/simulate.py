"""Simulated devices that send readings to a service, as real ones do."""

import logging
import signal
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from iot_tools.checks.http_client import ApiClient, NotDeliveredError, RefusedError

from .interrogator import Interrogator
from .outbox import Batch, Outbox

_log = logging.getLogger(__name__)

_TICK = 0.5
_BATCH = 500
_CAPACITY = 200_000
_LONGEST_PAUSE = 10.0
_REPORT_EVERY = 60.0


@dataclass(frozen=True, kw_only=True)
class Simulation:
    """What to send: `rate` readings/s from each device, for ever or `readings` from each."""

    url: str
    password: str
    devices: int = 1
    rate: float = 10.0
    readings: int | None = None
    insecure: bool = False
    token: str = field(default="", repr=False)

    def client(self) -> ApiClient:
        """A connection for one device."""
        context = ssl.create_default_context()
        if self.insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return ApiClient(self.url, self.password, token=self.token, context=context)


class Device:
    """One interrogator and its way to the service.

    What can't be sent is kept and sent again, in order, until it is acknowledged: nothing is
    lost while the service restarts, up to a bound on memory, and the log says when that is hit.
    """

    def __init__(
        self,
        name: str,
        interrogator: Interrogator,
        client: ApiClient,
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
        self._try_at = 0.0

    @property
    def finished(self) -> bool:
        """Whether everything it was to send is acknowledged."""
        return self._interrogator.finished and self.outbox.first() is None

    def run(self, stop: threading.Event) -> None:
        """Send until told to stop, or until finished; then try once to hand over the rest."""
        report_at = self._clock() + _REPORT_EVERY
        while not self.finished and not stop.wait(_TICK):
            self.step()
            if self._clock() >= report_at:
                report_at += _REPORT_EVERY
                _log.info("%s: %d readings sent so far", self.name, self.sent)
        self._try_at = 0.0
        self.step()
        self._client.close()
        _log.info("%s: %d sent, %d not sent", self.name, self.sent, self.outbox.waiting)

    def step(self) -> None:
        """Take the readings that are due; send all that wait, unless it is too early to retry."""
        readings = self._interrogator.due()
        given_up = self.outbox.given_up
        for start in range(0, len(readings), _BATCH):
            self.outbox.add(Batch(readings[start : start + _BATCH]))
        if self.outbox.given_up > given_up:
            _log.error("%s: no room, %d readings lost so far", self.name, self.outbox.given_up)
        if self._clock() >= self._try_at:
            self._deliver()

    def _deliver(self) -> None:
        while batch := self.outbox.first():
            try:
                self._client.put(batch.readings, batch.key)
                self.sent += len(batch.readings)
            except NotDeliveredError as error:
                self._put_off(error)
                return
            except RefusedError as error:
                _log.error("%s: %d readings refused: %s", self.name, len(batch.readings), error)
            self.outbox.remove_first()
            self._delivered()

    def _put_off(self, error: NotDeliveredError) -> None:
        now = self._clock()
        if self._failures == 0:
            self._failing_since = now
            waiting = self.outbox.waiting
            _log.warning("%s: can't send, keeping %d readings: %s", self.name, waiting, error)
        pause = error.retry_after or min(_LONGEST_PAUSE, _TICK * 2**self._failures)
        self._failures = min(self._failures + 1, 10)
        self._try_at = now + pause

    def _delivered(self) -> None:
        if self._failures:
            away = self._clock() - self._failing_since
            waiting = self.outbox.waiting
            _log.info("%s: sends again after %.1f s, %d to catch up", self.name, away, waiting)
        self._failures = 0


def simulate(simulation: Simulation) -> int:
    """Run the devices until SIGINT, SIGTERM or the last reading; 0 if every reading arrived."""
    stop = threading.Event()
    for signal_number in (signal.SIGINT, signal.SIGTERM):
        # Safe, as this thread only joins: it never holds the event's lock.
        signal.signal(signal_number, lambda *_: stop.set())
    devices = [
        Device(
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
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return 1 if any(device.outbox.waiting or device.outbox.given_up for device in devices) else 0
