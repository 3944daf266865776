"""The canary: numbered readings for ever, and whether each can be read again, once."""

import json
import logging
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, TypeVar

from iot_models import metrics, monitoring, settings
from iot_models.errors import SettingsError
from iot_tools.cli.signals import EndedError, ended_by_signals

from .canary_ledger import Ledger
from .http_client import ApiClient, NotDeliveredError, RefusedError

_log = logging.getLogger(__name__)

_KEEP_SECONDS = 3600.0
_MOST = 5000
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.05, 10.0
_COMPLAIN_EVERY = 60.0
_STUCK_SECONDS = 300.0

T = TypeVar("T")


class Canary:
    """Reading n has n as its relative time, and an Idempotency-Key made of n alone.

    So whoever continues after a restart may send a number again that was on its way: it is stored
    once. Microseconds so few are no maximum to anybody else's relative times.
    """

    def __init__(
        self,
        client: ApiClient,
        *,
        token: Callable[[], str],
        every: float,
        grace: float,
        keep: float = _KEEP_SECONDS,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """`token` is asked before each request, so that one that is replaced is taken up."""
        self._client = client
        self._token = token
        self._every = every
        self._clock = clock
        self._sleep = sleep
        self._window = max(2, min(_MOST, int(keep / every)))
        self._next = 0
        self._ledger = Ledger(grace=grace, keep=keep, most=_MOST)
        self._beat = clock()
        self._trouble = ""
        self._complained_at = 0.0
        metrics.create_metrics("canary")

    def health(self) -> tuple[bool, dict[str, str]]:
        """Whether the work goes on, be it in vain."""
        alive = self._clock() - self._beat < _STUCK_SECONDS + self._every
        return alive, {"status": "ok" if alive else "stuck"}

    def run(self) -> None:
        """Work until an exception that a signal raises."""
        pause = _SHORTEST_PAUSE
        while not self.resume():
            self._sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
        send_at = check_at = self._clock()
        while True:
            self._beat = self._clock()
            if self._beat >= send_at:
                sent = self.send()
                pause = _SHORTEST_PAUSE if sent else min(2 * pause, _LONGEST_PAUSE, self._every)
                send_at = self._beat + (self._every if sent else pause)
            if self._clock() >= check_at:
                self.check()
                check_at = self._clock() + self._every
            self._sleep(max(_SHORTEST_PAUSE, min(send_at, check_at) - self._clock()))

    def resume(self) -> bool:
        """Learn where the numbers go on, and what is missing among those before; False: not yet."""
        self._beat = self._clock()
        last = self._answer(lambda: [self._client.max_relative_time()])
        if last is None:
            return False
        high = max(0, last[0] or 0)
        rows = self._answer(lambda: self._client.between(max(1, high - self._window + 1), high))
        if rows is None:
            return False
        ours = _ours(rows)
        if ours:
            counted = [number for each in ours for number in each.get("counted", [])]
            numbers = [each["canary"] for each in ours]
            self._ledger.resume(numbers, counted, self._clock())
        self._next = high + 1
        _log.info("begins with reading %d; %d before it are watched", self._next, len(self._ledger))
        return True

    def send(self) -> bool:
        """Send the next reading, once; when it is acknowledged, wait a while until it is there."""
        number, sent_at = self._next, self._clock()
        content: dict[str, Any] = {"canary": number}
        if self._ledger.counted:
            content["counted"] = self._ledger.counted
        reading = {
            "relative_time": number,
            "interrogator_time": time.time_ns() // 1000,
            "freeform": content,
        }
        if not self._answer(lambda: self._put(reading)):
            return False
        self._next += 1
        self._ledger.acknowledge(number, sent_at=sent_at, now=self._clock())
        metrics.counter("iot_canary_sent_total").inc()
        self._await(number, sent_at + min(self._every, _LONGEST_PAUSE))
        return True

    def check(self) -> None:
        """Read all that are watched, and count what is missing or too many."""
        bounds = self._ledger.bounds
        if bounds is None:
            return
        rows = self._answer(lambda: self._client.between(*bounds))
        if rows is None:
            self._ledger.fail()
            return
        times = Counter(each["canary"] for each in _ours(rows))
        verdict = self._ledger.judge(times, self._clock())
        for took in verdict.round_trips:
            metrics.histogram("iot_canary_round_trip_seconds").observe(took)
        metrics.counter("iot_canary_lost_total").inc(len(verdict.lost))
        metrics.counter("iot_canary_late_total").inc(len(verdict.late))
        metrics.counter("iot_canary_doubled_total").inc(len(verdict.doubled))
        for what, numbers in (("lost", verdict.lost), ("there twice", verdict.doubled)):
            if numbers:
                _log.error("readings that are %s: %s", what, _list(numbers))
        if verdict.late:
            _log.warning("counted as lost, and there after all: %s", _list(verdict.late))

    def _put(self, reading: dict[str, Any]) -> bool:
        self._client.put([reading], f"canary-{reading['relative_time']}")
        return True

    def _await(self, number: int, until: float) -> None:
        pause = _SHORTEST_PAUSE
        while self._clock() < until:
            rows = self._answer(lambda: self._client.between(number, number))
            if rows is None:
                return
            if _ours(rows):
                took = self._ledger.arrive(number, self._clock())
                if took is not None:
                    metrics.histogram("iot_canary_round_trip_seconds").observe(took)
                return
            self._sleep(pause)
            pause = min(2 * pause, 1.0)

    def _answer(self, ask: Callable[[], T]) -> T | None:
        """None when there was none, which is counted and told."""
        try:
            self._client.token = self._token()
            answer = ask()
        except (NotDeliveredError, RefusedError, SettingsError) as error:
            metrics.counter("iot_canary_failures_total").inc()
            self._complain(str(error))
            return None
        if self._trouble:
            _log.info("works again")
            self._trouble = ""
        return answer

    def _complain(self, trouble: str) -> None:
        now = self._clock()
        if trouble != self._trouble or now - self._complained_at > _COMPLAIN_EVERY:
            _log.warning("doesn't work: %s", trouble)
            self._trouble, self._complained_at = trouble, now


def run(canary: Canary, port: int) -> int:
    """Run until SIGTERM or SIGINT, with /metrics and /healthz on a port unless it is 0."""
    try:
        with ended_by_signals():
            if port:
                address = settings.load_one("metrics_address")
                monitoring.serve("--metrics-port", address, port, {"/healthz": canary.health})
            canary.run()
    except EndedError as ended:
        _log.info("ends: %s", ended)
    return 0


def _ours(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The contents of the canary's readings; another's may be there under the same password."""
    contents = [(row["relative_timestamp"], json.loads(row["freeform"])) for row in rows]
    return [
        content
        for number, content in contents
        if isinstance(content, dict) and content.get("canary") == number
    ]


def _list(numbers: list[int]) -> str:
    shown = ", ".join(map(str, numbers[:20]))
    return shown if len(numbers) <= 20 else f"{shown} and {len(numbers) - 20} more"
