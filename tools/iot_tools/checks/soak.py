"""`iot-sensor soak`: sends load, counts every failed request, and reads all readings back."""

import json
import secrets
import ssl
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from iot_models.errors import SettingsError
from iot_sensor_client import Client, NoResponseError
from iot_tools.cli.shutdown_signals import ShutdownSignals

from .soak_device import Account, SoakDevice

_TICK_SECONDS = 0.2
_PROGRESS_SECONDS = 1.0
_MAX_FAILURES = 50


@dataclass(frozen=True, kw_only=True)
class Soak:
    """A load on the service for `seconds`, or until someone writes text into the file `until`."""

    url: str
    password: str = field(repr=False)
    token: str = field(default="", repr=False)
    devices: int = 4
    rate: float = 20.0
    """Readings/s of each device."""
    seconds: float = 60.0
    until: Path | None = None
    begin: float = 60.0
    """Longest wait for the service before the load, in seconds."""
    settle: float = 60.0
    """Longest time to resend readings that are not acknowledged when the load ends, in seconds."""
    verify: float = 120.0
    """Longest time until all readings are stored and read, in seconds."""
    timeout: float = 30.0
    """Timeout of a request, in seconds."""
    tls_context: ssl.SSLContext | None = None
    strict: bool = True
    """Whether a failed request fails the run."""

    def check(self) -> None:
        """Raise `SettingsError` for an invalid option."""
        if not (self.devices >= 1 and 0 < self.rate <= 10_000):
            raise SettingsError(
                "--devices must be at least 1; --rate must be above 0 and at most 10000"
            )
        try:
            self._client(keep_alive=True)
        except ValueError as error:
            raise SettingsError(f"--url: {error}") from None
        _end_requested(self.until)

    def wait_for_service(self) -> None:
        """Wait until the service responds. After `self.begin` seconds, return anyway.

        Requests that fail meanwhile are not counted: requests to a new Kubernetes Service may fail
        until all nodes of the cluster know the Service.
        """
        deadline = time.monotonic() + self.begin
        client = self._client(keep_alive=False)
        while time.monotonic() < deadline:
            try:
                client.request("GET", "/healthz", repeatable=False)
            except NoResponseError:
                time.sleep(_TICK_SECONDS)
            else:
                break

    def make_devices(self) -> list[SoakDevice]:
        """Return the devices, each with a password that only this run uses.

        Half of them open a connection for each request, as small firmware does.
        """
        run = secrets.token_hex(8)
        return [
            SoakDevice(
                f"{run}-{number}",
                f"{self.password} {run} {number}",
                self._client(keep_alive=number % 2 == 0),
                rate=self.rate,
            )
            for number in range(self.devices)
        ]

    def _client(self, *, keep_alive: bool) -> Client:
        return Client(
            self.url,
            token=self.token,
            timeout=self.timeout,
            tls_context=self.tls_context,
            keep_alive=keep_alive,
        )


def run(soak: Soak) -> int:
    """Send readings, read them back, and print a report. Return 0 if the run passed, else 1.

    The report is the last line of the output. `make_report` says when a run passes. SIGTERM, SIGINT
    and SIGHUP end the load early; the readings are still read back.
    """
    with ShutdownSignals() as signals:
        return _run(soak, signals)


def _run(soak: Soak, signals: ShutdownSignals) -> int:
    stop = threading.Event()
    devices = soak.make_devices()
    soak.wait_for_service()
    began = time.monotonic()
    threads = [
        threading.Thread(target=device.run, args=(stop,), kwargs={"settle": soak.settle})
        for device in devices
    ]
    try:
        for thread in threads:
            thread.start()
        _report_progress(soak, devices, signals)
    finally:
        stop.set()
    for thread in threads:
        thread.join()
    seconds = time.monotonic() - began
    verifiers = [
        threading.Thread(target=device.verify, args=(time.monotonic() + soak.verify,))
        for device in devices
    ]
    for thread in verifiers:
        thread.start()
    for thread in verifiers:
        thread.join()
    accounts = [device.account for device in devices]
    report = make_report(accounts, seconds=seconds, strict=soak.strict)
    _print({"report": report})
    return 0 if report["well"] else 1


def make_report(accounts: Sequence[Account], *, seconds: float, strict: bool) -> dict[str, Any]:
    """Return the figures of all devices together. The member "well" says whether the run passed.

    A run passes if the last reading of each device was stored, and no reading is lost, doubled or
    strange (see `Account`). With `strict`, a failed or refused request or an unacknowledged reading
    fails the run, too.
    """
    failures = sorted(line for account in accounts for line in account.failures)
    report: dict[str, Any] = {
        "devices": len(accounts),
        "seconds": round(seconds, 1),
        **_sums(accounts),
        "unsure": sum(account.sent - len(account.acknowledged) for account in accounts),
        "not_stored": sum(not account.stored for account in accounts),
        "lost": sum(account.lost for account in accounts),
        "doubled": sum(account.doubled for account in accounts),
        "strange": sum(account.strange for account in accounts),
        "slowest_seconds": round(max(account.slowest for account in accounts), 3),
        "failures": failures[:_MAX_FAILURES],
    }
    wrong = ["not_stored", "lost", "doubled", "strange"]
    if strict:
        wrong += ["failed", "refused", "unsure"]
    report["well"] = not any(report[name] for name in wrong)
    return report


def _report_progress(soak: Soak, devices: Sequence[SoakDevice], signals: ShutdownSignals) -> None:
    """Print a line of progress, with counts over all devices, once a second until the load ends."""
    deadline = time.monotonic() + soak.seconds
    print_at = 0.0
    while not signals.requested and time.monotonic() < deadline and not _end_requested(soak.until):
        if time.monotonic() >= print_at:
            print_at = time.monotonic() + _PROGRESS_SECONDS
            accounts = [device.account for device in devices]
            least = min(len(account.acknowledged) for account in accounts)
            _print({"progress": {**_sums(accounts), "least": least}})
        signals.pause(_TICK_SECONDS)


def _end_requested(until: Path | None) -> bool:
    try:
        return until is not None and bool(until.read_bytes().strip())
    except FileNotFoundError:
        return False
    except OSError as error:
        raise SettingsError(f"--until {until} can't be read: {error.strerror}") from None


def _sums(accounts: Sequence[Account]) -> dict[str, int]:
    return {
        "requests": sum(account.requests for account in accounts),
        "acknowledged": sum(len(account.acknowledged) for account in accounts),
        "failed": sum(account.failed for account in accounts),
        "refused": sum(account.refused for account in accounts),
    }


def _print(line: dict[str, Any]) -> None:
    print(json.dumps(line), flush=True)
