"""Devices beside a flood of unknown passwords: requests/s, p99, and the time until a first 201.

wrk sends the flood at full speed from one address. In each round, a device with another address
sends alone and then beside the flood, so that the state of the machine is the same both times.
During the flood, another device sends readings, each under a vault that is not open: the measure
is the time until the 201.
"""

import signal
import statistics
import subprocess
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from bench import wrk
from bench.limits import wait_until
from bench.load import Connection
from bench.peers.side import answers
from bench.results import Kind, Results, Row
from bench.service import READY_SECONDS, Service, running_service
from bench.spread import spread
from bench.stage import Stage, missing

FLOODS = {
    "reads": "reads with wrong passwords",
    "puts": "PUTs with new passwords",
    "many": "PUTs with 1,000 new passwords each",
}
SETTINGS = {
    "IOT_SCRYPT_LOG2_N": "17",
    "IOT_GUESS_LIMIT": "120",
    "IOT_TRUSTED_PROXIES": "1",  # so that each flood has its own address
}
DEVICE, RESTARTED = "127.0.0.2", "127.0.0.3"
OPENINGS = 2
"""Number of closed vaults that are opened during each flood."""
_ADDRESSES = count(1)
_BEGIN_SECONDS = 0.5
"""Seconds from the start of a flood until the device is measured."""
_SCRIPT = Path(__file__).parents[1] / "flood.lua"


@dataclass(slots=True)
class _Values:
    """The values measured with one kind of flood.

    Each list has one value for each round, but `first` has `OPENINGS` values for each round.
    """

    alone: list[float] = field(default_factory=list)
    beside: list[float] = field(default_factory=list)
    p99_alone: list[float] = field(default_factory=list)
    p99_beside: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    """Seconds until the first 201 of a device whose vault was not open."""


def measure_flood(stage: Stage) -> None:
    """Measure a device alone and beside each flood, in several rounds."""
    if not wrk.installed():
        stage.results.notes.append(missing("wrk", wrk.PACKAGE))
        return
    rounds, seconds = stage.scale.rounds, stage.scale.flood_seconds
    found: defaultdict[str, _Values] = defaultdict(_Values)
    with running_service(settings=SETTINGS) as service:
        closed = _closed_vaults(service, rounds * len(FLOODS) * OPENINGS)
        with _Device(service) as device:
            for kind in [*FLOODS] * rounds:
                _measure_round(service, device, kind, seconds, found[kind], closed)
    for kind, what in FLOODS.items():
        _report(stage.results, what, found[kind])


def _measure_round(
    service: Service,
    device: "_Device",
    kind: str,
    seconds: float,
    values: _Values,
    closed: Iterator[str],
) -> None:
    _note(device.send(seconds), seconds, values.alone, values.p99_alone)
    with _flooded(service, kind):
        time.sleep(_BEGIN_SECONDS)
        _note(device.send(seconds), seconds, values.beside, values.p99_beside)
        values.first += [_first_answer(service, next(closed)) for _ in range(OPENINGS)]


class _Device:
    """A device that sends one reading after the other under an open vault."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._connection = Connection(service.port, DEVICE)
        self._numbers = count()
        self._send()

    def __enter__(self) -> "_Device":
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.__exit__()

    def _send(self) -> None:
        _put(self._service, self._connection, next(self._numbers), "device")

    def send(self, seconds: float) -> list[float]:
        """Send for some seconds, at least twice. Return the duration of each request."""
        waits: list[float] = []
        end = time.perf_counter() + seconds
        while (began := time.perf_counter()) < end or len(waits) < 2:
            self._send()
            waits.append(time.perf_counter() - began)
        return waits


def _put(service: Service, connection: Connection, number: int, vault: str) -> None:
    body = service.wire.single(number, vault).encode()
    connection.request(service.wire.request(body), service.wire.status)


def _note(waits: list[float], seconds: float, speeds: list[float], p99s: list[float]) -> None:
    speeds.append(len(waits) / seconds)
    p99s.append(1000 * statistics.quantiles(waits, n=100, method="inclusive")[98])


def _closed_vaults(service: Service, number: int) -> Iterator[str]:
    """Create vaults, then restart the API to close the vaults. Return their passwords."""
    names = [f"restarted {each}" for each in range(number)]
    for at, name in enumerate(names):
        # One client for each vault: the service lets a client wait between new vaults.
        with Connection(service.port, f"127.0.1.{1 + at % 250}") as connection:
            _put(service, connection, 0, name)
    service.settle()
    api = service.children[0]
    api.stop()
    api.spawn()
    wait_until(lambda: answers(service.ready), READY_SECONDS, "the service is ready")
    return iter(names)


def _first_answer(service: Service, vault: str) -> float:
    began = time.perf_counter()
    with Connection(service.port, RESTARTED) as connection:
        _put(service, connection, 1, vault)
    return time.perf_counter() - began


@contextmanager
def _flooded(service: Service, kind: str) -> Iterator[None]:
    command = ["wrk", f"-t{wrk.THREADS}", f"-c{wrk.CONNECTIONS}", "-d300s", "--timeout", "60s"]
    command += ["-s", str(_SCRIPT), f"http://127.0.0.1:{service.port}"]
    command += ["--", kind, f"192.0.2.{next(_ADDRESSES)}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as flood:  # noqa: S603 - arguments of our own
        try:
            yield
            if flood.poll() is not None:
                raise RuntimeError("wrk ended before the measure")
        finally:
            flood.send_signal(signal.SIGINT)
            flood.communicate()


def _report(results: Results, what: str, values: _Values) -> None:
    speed = Row(f"a device beside {what}", "requests/s", spread(values.beside))
    p99 = Row(f"p99 of a device beside {what}", "ms", spread(values.p99_beside))
    first = Row(f"first 201 under a closed vault beside {what}", "s", spread(values.first))
    speed.at_least(Kind.FLOOR, 0.8, "the device alone", spread(values.alone))
    p99.at_most(Kind.FLOOR, 2, "the device alone", spread(values.p99_alone))
    first.below(Kind.FLOOR, 2, "s")
    results.rows += [speed, p99, first]
