"""A device of `iot-sensor soak`: sends numbered readings, and keeps account of every request."""

import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from .soak_wire import Answer, NoAnswerError, Wire

_PAUSE = 0.2
_LONGEST_PAUSE = 5.0
_READ_EVERY = 10
_KEPT = 20


@dataclass
class Account:
    """What became of a device's requests and readings."""

    requests: int = 0
    failed: int = 0
    """Requests that got no answer, or one that is neither a success nor `refused`."""
    refused: int = 0
    """Requests that were answered 429 or 503."""
    failures: list[str] = field(default_factory=list)
    """When, what and why; the first ones."""
    slowest: float = 0.0
    sent: int = 0
    acknowledged: set[int] = field(default_factory=set)
    stored: bool = False
    """The service said of the last reading, and so of all before it, that it is stored."""
    lost: int = 0
    """Acknowledged, and not there."""
    doubled: int = 0
    strange: int = 0
    """There, and not as it was sent, or not sent at all."""


class Device:
    """Reading n has n as its times, and an Idempotency-Key made of n.

    It is sent until it is acknowledged, each time under that key, so however often a request
    fails it must be there once. The password is the device's own: a vault of its own, in whatever
    shard that falls.
    """

    def __init__(self, name: str, password: str, wire: Wire, *, rate: float) -> None:
        self.name = name
        self.account = Account()
        self._password = password
        self._wire = wire
        self._interval = 1 / rate

    def run(self, stop: threading.Event, *, settle: float) -> None:
        """Send until told to stop; what is on its way then is repeated for `settle` seconds."""
        due = time.monotonic()
        while not stop.is_set():
            self._send_until(stop, settle)
            if self.account.sent % _READ_EVERY == 0 and self.account.acknowledged:
                self._ask("POST", "/api/iot/last/1", self._question())
            due = max(due + self._interval, time.monotonic() - 1)
            stop.wait(max(0.0, due - time.monotonic()))

    def finish(self, end: float) -> None:
        """By `end` (as of `time.monotonic`): have the last reading stored, read all, and judge."""
        if not self.account.acknowledged:
            self._wire.close()
            return
        self.account.stored = self._store_last(end)
        rows: list[Any] = []
        while True:
            answer = self._ask("POST", "/api/iot", self._question())
            content = answer.json() if answer is not None and answer.status == 200 else None
            if isinstance(content, dict):
                rows = content["data"]
                if self.account.acknowledged <= {each["relative_timestamp"] for each in rows}:
                    break
            if time.monotonic() > end:
                break
            time.sleep(_PAUSE)
        self._judge(rows)
        self._wire.close()

    def _send_until(self, stop: threading.Event, settle: float) -> None:
        """The next reading; given up only `settle` seconds after the stop."""
        number = self._take()
        pause, end = _PAUSE, None
        while self._put(number, "/api/iot") is None:
            if stop.is_set():
                end = end or time.monotonic() + settle
                if time.monotonic() > end:
                    return
                time.sleep(pause)
            else:
                stop.wait(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _store_last(self, end: float) -> bool:
        """Send one more with ack=stored; it comes after all others in their shard."""
        number = self._take()
        ask = ""
        while time.monotonic() < end:
            if ask:
                answer = self._ask("GET", ask)
                if answer is not None and answer.status == 200:
                    return True
            else:
                answer = self._put(number, "/api/iot?ack=stored")
                if answer is not None and answer.status == 201:
                    return True
                content = answer.json() if answer is not None else None
                ask = content.get("ask", "") if isinstance(content, dict) else ""
            time.sleep(_PAUSE)
        return False

    def _take(self) -> int:
        number = self.account.sent
        self.account.sent += 1
        return number

    def _put(self, number: int, path: str) -> Answer | None:
        """Send a reading once; the answer if it is acknowledged."""
        data = {
            "db_password": self._password,
            "relative_time": number,
            "interrogator_time": number,
            "freeform": number,
        }
        headers = {"Idempotency-Key": f"{self.name}-{number}"}
        answer = self._ask("PUT", path, {"data": data}, headers)
        if answer is None or answer.status not in {201, 202}:
            return None
        self.account.acknowledged.add(number)
        return answer

    def _question(self) -> dict[str, Any]:
        return {"data": {"db_password": self._password}}

    def _ask(
        self, method: str, path: str, body: object = None, headers: dict[str, str] | None = None
    ) -> Answer | None:
        """One request, and it is counted; None when there was no answer."""
        began = time.monotonic()
        self.account.requests += 1
        what = f"{method} {path.partition('stored/')[0]}"
        try:
            answer = self._wire.ask(method, path, body, headers)
        except NoAnswerError as error:
            self._fail(f"{what}: {error}")
            return None
        finally:
            self.account.slowest = max(self.account.slowest, time.monotonic() - began)
        if answer.status in {429, 503}:
            self.account.refused += 1
            self._note(f"{what}: {_told(answer)}")
        elif answer.status >= 300:
            self._fail(f"{what}: {_told(answer)}")
        return answer

    def _fail(self, why: str) -> None:
        self.account.failed += 1
        self._note(why)

    def _note(self, why: str) -> None:
        if len(self.account.failures) < _KEPT:
            now = datetime.now(UTC).strftime("%H:%M:%S.%f")[:-3]
            self.account.failures.append(f"{now} {self.name}: {why}")

    def _judge(self, rows: list[Any]) -> None:
        account = self.account
        times = Counter(each["relative_timestamp"] for each in rows)
        account.lost = len(account.acknowledged - set(times))
        account.doubled = sum(1 for count in times.values() if count > 1)
        account.strange = sum(
            1
            for each in rows
            if not 0 <= each["relative_timestamp"] < account.sent
            or each["interrogator_timestamp"] != each["relative_timestamp"]
            or each["freeform"] != str(each["relative_timestamp"])
        )


def _told(answer: Answer) -> str:
    return f"{answer.status} {answer.body[:200].decode(errors='replace').strip()}"
