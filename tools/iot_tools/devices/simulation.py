"""`iot-sensor simulate`: run devices, show their progress, and print totals at the end."""

import itertools
import logging
import ssl
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from iot_sensor_client import Client, RetryPolicy
from iot_tools.cli.shutdown_signals import ShutdownSignals

from .device import MAX_BATCH, Counts, Device
from .sensors import Schedule, Sensor

_log = logging.getLogger(__name__)

_TICK_SECONDS = 0.5
_REPORT_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True)
class Simulation:
    """What the simulated devices send, and to which service.

    Each device follows `schedule`. It stops after `readings` readings, unless `readings` is None.
    """

    url: str
    password: str
    schedule: Schedule
    kind: str = "rfid"
    devices: int = 1
    batch: int | None = None
    """Maximum number of readings in a request. If it is None, a request has the readings of half a
    second, at most 500."""
    readings: int | None = None
    insecure: bool = False
    """Whether to accept every certificate."""
    token: str = field(default="", repr=False)
    tls_context: ssl.SSLContext | None = None

    def client(self) -> Client:
        """Return a client for one device. Raises `ValueError` if the URL is invalid."""
        context = self.tls_context
        if self.insecure:
            context = context or ssl.create_default_context()
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        # A device takes readings between two attempts, so it repeats requests itself.
        once = RetryPolicy(max_attempts=1)
        return Client(self.url, self.password, self.token, retry=once, tls_context=context)

    def device(self, number: int) -> Device:
        """Return the device with this number."""
        sensor = Sensor(number, self.schedule, time.time, kind=self.kind, limit=self.readings)
        batch = self.batch or MAX_BATCH
        return Device(f"device {number}", sensor, self.client(), batch=batch)

    @property
    def every(self) -> float:
        """Seconds between two steps of a device: 0.5, or less if a batch is full earlier."""
        batch_seconds = _TICK_SECONDS if self.batch is None else self.batch / self.schedule.rate
        return max(0.001, min(_TICK_SECONDS, batch_seconds))


Show = Callable[[str], None]
"""Shows a line of progress in place of the line before. An empty line ends the progress."""


def simulate(simulation: Simulation, show: Show | None = None) -> int:
    """Run the devices until all have finished, or a signal requests the shutdown.

    Return 0 if all readings were acknowledged, 1 if any reading was dropped, rejected or not sent.
    Without `show`, log the progress once a minute.
    """
    stop, began = threading.Event(), time.monotonic()
    devices = [simulation.device(number) for number in range(1, simulation.devices + 1)]
    _log.info(
        "%d devices (%s), %g readings/s each, to %s",
        len(devices), simulation.kind, simulation.schedule.rate, simulation.url,
    )  # fmt: skip
    arguments = {"every": simulation.every}
    threads = [
        threading.Thread(target=device.run, args=(stop,), kwargs=arguments) for device in devices
    ]
    report_at = began + _REPORT_SECONDS
    with ShutdownSignals() as signals:
        try:
            for thread in threads:
                thread.start()
            while any(thread.is_alive() for thread in threads) and not signals.requested:
                signals.pause(_TICK_SECONDS)
                if show is not None:
                    show(progress(devices, time.monotonic() - began))
                elif time.monotonic() >= report_at:
                    report_at += _REPORT_SECONDS
                    _log.info(progress(devices, time.monotonic() - began))
        finally:
            stop.set()
        for thread in threads:
            thread.join()
    if show is not None:
        show("")
    for line in summary(devices, time.monotonic() - began):
        _log.info(line)
    lost = any(
        device.queue.waiting or device.queue.dropped or device.counts.rejected for device in devices
    )
    return 1 if lost else 0


def progress(devices: Sequence[Device], seconds: float) -> str:
    """Return a line with the numbers of acknowledged and waiting readings and failed requests."""
    acknowledged = sum(device.counts.acknowledged for device in devices)
    waiting = sum(device.queue.waiting for device in devices)
    failures = sum(device.counts.failures for device in devices)
    rate = acknowledged / seconds if seconds else 0.0
    failed = f", {failures:,} requests failed" if failures else ""
    return f"{acknowledged:,} readings acknowledged ({rate:,.0f}/s), {waiting:,} wait{failed}"


def summary(devices: Sequence[Device], seconds: float) -> list[str]:
    """Return lines with the totals of readings and requests, and with the latencies."""
    counts = [device.counts for device in devices]
    acknowledged = sum(each.acknowledged for each in counts)
    waiting = sum(device.queue.waiting for device in devices)
    dropped = sum(device.queue.dropped for device in devices)
    rejected = sum(each.rejected for each in counts)
    requests = sum(each.requests for each in counts)
    failures = sum(each.failures for each in counts)
    rate = acknowledged / max(seconds, 1e-9)
    sent = f"{acknowledged:,} acknowledged in {seconds:.1f} s ({rate:,.0f}/s)"
    lines = [
        f"readings: {sent}, {rejected:,} refused, {waiting:,} not sent, {dropped:,} dropped",
        f"requests: {requests:,} acknowledged, {failures:,} failed and sent again",
    ]
    return lines + _latencies(counts)


def _latencies(counts: Sequence[Counts]) -> list[str]:
    latencies = [1000 * each for each in itertools.chain(*(each.latencies for each in counts))]
    if len(latencies) < 2:
        return []
    cuts = statistics.quantiles(latencies, n=100, method="inclusive")
    return [f"latency: p50 {cuts[49]:.1f} ms, p99 {cuts[98]:.1f} ms, max {max(latencies):.1f} ms"]
