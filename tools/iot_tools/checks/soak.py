"""`iot-sensor soak`: load that forgives nothing, and afterwards reads back all that it sent."""

import json
import secrets
import signal
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from iot_models.errors import SettingsError

from .soak_device import Account, Device
from .soak_wire import NoAnswerError, Wire

_TICK = 0.2
_KEPT = 50


@dataclass(frozen=True, kw_only=True)
class Soak:
    """What to send, and for how long: `seconds`, or until the file `until` holds something."""

    url: str
    password: str = field(repr=False)
    token: str = field(default="", repr=False)
    devices: int = 4
    rate: float = 20.0
    seconds: float = 60.0
    until: Path | None = None
    begin: float = 60.0
    settle: float = 60.0
    verify: float = 120.0
    timeout: float = 30.0
    strict: bool = True

    def check(self) -> None:
        """Raises `SettingsError` for what can't be done."""
        if not (self.devices >= 1 and 0 < self.rate <= 10_000):
            raise SettingsError("--devices must be 1 or more, and --rate from above 0 to 10000")
        try:
            self._wire(keep=True)
        except ValueError as error:
            raise SettingsError(f"--url is {error}") from None

    def wait_for_service(self) -> None:
        """Return at the first answer, or after `begin` seconds: a service that has just come is
        not known everywhere at once. What fails until then isn't counted.
        """
        end = time.monotonic() + self.begin
        wire = self._wire(keep=False)
        while time.monotonic() < end:
            try:
                wire.ask("GET", "/healthz")
            except NoAnswerError:
                time.sleep(_TICK)
            else:
                break

    def make_devices(self) -> list[Device]:
        """Every second one opens a connection for each request, as small firmware does; the others
        keep one open. Their passwords are those of this run alone.
        """
        run = secrets.token_hex(8)
        return [
            Device(
                f"{run}-{number}",
                f"{self.password} {run} {number}",
                self._wire(keep=number % 2 == 0),
                rate=self.rate,
            )
            for number in range(self.devices)
        ]

    def _wire(self, *, keep: bool) -> Wire:
        return Wire(self.url, token=self.token, keep=keep, timeout=self.timeout)


def run(soak: Soak) -> int:
    """Send, read back, and print the report as the last line; 0 if all was well.

    With `strict`, one failed or refused request is one too many. SIGTERM and SIGINT end the load
    early; it is read back all the same.
    """
    stop = threading.Event()
    ended: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        # No event: its lock may be held by what the signal interrupts.
        signal.signal(number, lambda number, _: ended.append(number))
    devices = soak.make_devices()
    soak.wait_for_service()
    began = time.monotonic()
    threads = [
        threading.Thread(target=each.run, args=(stop,), kwargs={"settle": soak.settle})
        for each in devices
    ]
    for thread in threads:
        thread.start()
    _let_run(soak, devices, ended)
    stop.set()
    for thread in threads:
        thread.join()
    loaded = time.monotonic() - began
    verifiers = [
        threading.Thread(target=each.finish, args=(time.monotonic() + soak.verify,))
        for each in devices
    ]
    for thread in verifiers:
        thread.start()
    for thread in verifiers:
        thread.join()
    report = report_of([each.account for each in devices], seconds=loaded, strict=soak.strict)
    _print({"report": report})
    return 0 if report["well"] else 1


def report_of(accounts: Sequence[Account], *, seconds: float, strict: bool) -> dict[str, Any]:
    """The sums over all devices, and whether all is well."""
    failures = sorted(line for each in accounts for line in each.failures)
    report: dict[str, Any] = {
        "devices": len(accounts),
        "seconds": round(seconds, 1),
        **_sums(accounts),
        "unsure": sum(each.sent - len(each.acknowledged) for each in accounts),
        "not_stored": sum(not each.stored for each in accounts),
        "lost": sum(each.lost for each in accounts),
        "doubled": sum(each.doubled for each in accounts),
        "strange": sum(each.strange for each in accounts),
        "slowest_seconds": round(max(each.slowest for each in accounts), 3),
        "failures": failures[:_KEPT],
    }
    wrong = ["not_stored", "lost", "doubled", "strange"]
    if strict:
        wrong += ["failed", "refused", "unsure"]
    report["well"] = not any(report[name] for name in wrong)
    return report


def _let_run(soak: Soak, devices: Sequence[Device], ended: list[int]) -> None:
    """Tell once a second how it goes, until it is over."""
    end = time.monotonic() + soak.seconds
    tell_at = 0.0
    while not ended and time.monotonic() < end and not _asked_to_end(soak.until):
        if time.monotonic() >= tell_at:
            tell_at = time.monotonic() + 1
            accounts = [each.account for each in devices]
            least = min(len(each.acknowledged) for each in accounts)
            _print({"progress": {**_sums(accounts), "least": least}})
        time.sleep(_TICK)


def _asked_to_end(until: Path | None) -> bool:
    try:
        return until is not None and bool(until.read_text(encoding="utf-8").strip())
    except FileNotFoundError:
        return False


def _sums(accounts: Sequence[Account]) -> dict[str, int]:
    return {
        "requests": sum(each.requests for each in accounts),
        "acknowledged": sum(len(each.acknowledged) for each in accounts),
        "failed": sum(each.failed for each in accounts),
        "refused": sum(each.refused for each in accounts),
    }


def _print(line: dict[str, Any]) -> None:
    print(json.dumps(line), flush=True)
