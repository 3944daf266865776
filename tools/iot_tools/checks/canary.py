"""The canary: sends numbered readings around the clock and checks that each is stored once."""

import json
import logging
import ssl
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from typing import Any, TypeVar

from iot_models import metrics, monitoring, settings
from iot_models.addresses import parse_metrics_address
from iot_models.errors import SettingsError
from iot_sensor_client import Client, ClientError, RejectedError, RetryPolicy
from iot_tools.cli.shutdown_signals import ShutdownRequested, ShutdownSignals

from .watched_readings import WatchedReadings

_log = logging.getLogger(__name__)

_WATCH_SECONDS = 3600.0
_MAX_WATCHED = 5000
_MIN_PAUSE, _MAX_PAUSE = 0.05, 10.0
_MAX_READ_PAUSE = 1.0
_REPEAT_WARNING_SECONDS = 60.0
_STUCK_SECONDS = 300.0
_MAX_LISTED = 20

T = TypeVar("T")


class Canary:
    """Sends numbered readings. Reading n has the relative time n, and an Idempotency-Key made of n.

    After a restart, or with two canaries, a number may be sent again. The service stores the
    reading only once, because the Idempotency-Key is the same. The relative times of the canary are
    small, so that they do not change the answer of `GET /api/iot/maxtime`, the greatest relative
    time of all vaults.
    """

    def __init__(
        self,
        url: str,
        password: str,
        *,
        token: Callable[[], str],
        every: float,
        grace: float,
        tls_context: ssl.SSLContext | None = None,
    ) -> None:
        """`every` is the time between two readings in seconds. `grace`: see `WatchedReadings`.

        `token` is called before each request, so that a replaced token is used.

        Raises:
            ValueError: `url` is not an http or https URL.
        """
        # The canary repeats requests itself, and counts each failure.
        once = RetryPolicy(max_attempts=1)
        self._client = Client(url, password, token, retry=once, tls_context=tls_context)
        self._every = every
        self._window = max(2, min(_MAX_WATCHED, int(_WATCH_SECONDS / every)))
        self._next = 0
        self._watched = WatchedReadings(grace=grace, keep=_WATCH_SECONDS, max_count=_MAX_WATCHED)
        self._active_at = time.monotonic()
        self._failure = ""
        self._warned_at = 0.0
        metrics.create_metrics("canary")
        metrics.export_build("iot_canary_build_info")

    def health(self) -> tuple[bool, dict[str, str]]:
        """Return whether the canary is healthy, and the body of the response to /healthz.

        The canary is unhealthy if its loop has been stuck for more than 5 minutes plus `every`.
        Failed requests do not make it unhealthy.
        """
        alive = time.monotonic() - self._active_at < _STUCK_SECONDS + self._every
        return alive, {"status": "ok" if alive else "stuck"}

    def run(self) -> None:
        """Send readings and check them, until a signal raises an exception."""
        pause = _MIN_PAUSE
        while not self.resume():
            time.sleep(pause)
            pause = min(2 * pause, _MAX_PAUSE)
        send_at = check_at = time.monotonic()
        while True:
            self._active_at = time.monotonic()
            if self._active_at >= send_at:
                sent = self.send()
                pause = _MIN_PAUSE if sent else min(2 * pause, _MAX_PAUSE, self._every)
                send_at = self._active_at + (self._every if sent else pause)
            if time.monotonic() >= check_at:
                self.check()
                check_at = time.monotonic() + self._every
            time.sleep(max(_MIN_PAUSE, min(send_at, check_at) - time.monotonic()))

    def resume(self) -> bool:
        """Find the greatest number that is stored: `send` continues with the next number.

        Also watch the greatest stored numbers: as many as are sent in an hour, but at least 2 and
        at most 5000. Return False if a request failed.
        """
        self._active_at = time.monotonic()
        last = self._try(lambda: [self._client.max_relative_time()])
        if last is None:
            return False
        high = max(0, last[0] or 0)
        low = max(1, high - self._window + 1)
        rows = self._try(lambda: self._client.read(start=low, end=high))
        if rows is None:
            return False
        contents = _canary_contents(rows)
        if contents:
            counted = [number for content in contents for number in content.get("counted", [])]
            numbers = [content["canary"] for content in contents]
            self._watched.resume(numbers, counted, time.monotonic())
        self._next = high + 1
        watched = len(self._watched)
        _log.info(
            "the canary starts at reading %d, watches %d earlier readings", self._next, watched
        )
        return True

    def send(self) -> bool:
        """Send the next reading and wait until it can be read. Return whether it was acknowledged.

        The wait also ends when a read fails, or min(`every`, 10) seconds after this method began.
        """
        number, sent_at = self._next, time.monotonic()
        content: dict[str, Any] = {"canary": number}
        if self._watched.counted:
            content["counted"] = self._watched.counted
        reading = {
            "relative_time": number,
            "interrogator_time": time.time_ns() // 1000,
            "freeform": content,
        }
        key = f"canary-{number}"
        if not self._try(lambda: self._put(reading, key)):
            return False
        self._next += 1
        self._watched.acknowledge(number, sent_at=sent_at, now=time.monotonic())
        metrics.counter("iot_canary_sent_total").inc()
        self._wait_until_found(number, sent_at + min(self._every, _MAX_PAUSE))
        return True

    def _put(self, reading: dict[str, Any], key: str) -> bool:
        """Send a reading. Return True, so that `_try` returns True after a success.

        The status 422 is a success: the service has another reading under `key`.

        Raises:
            ClientError: the request failed.
            SettingsError: the token can't be read.
        """
        try:
            self._client.put_readings([reading], idempotency_key=key)
        except RejectedError as error:
            # The service has the number with another time: the answer to an earlier attempt was
            # lost, or another canary sent it.
            if error.status != HTTPStatus.UNPROCESSABLE_ENTITY:
                raise
        return True

    def check(self) -> None:
        """Read all watched readings. Count the lost, doubled and late ones."""
        bounds = self._watched.bounds
        if bounds is None:
            return
        low, high = bounds
        rows = self._try(lambda: self._client.read(start=low, end=high))
        if rows is None:
            self._watched.mark_check_failed()
            return
        counts = Counter(content["canary"] for content in _canary_contents(rows))
        result = self._watched.check(counts, time.monotonic())
        for seconds in result.round_trips:
            metrics.histogram("iot_canary_round_trip_seconds").observe(seconds)
        metrics.counter("iot_canary_lost_total").inc(len(result.lost))
        metrics.counter("iot_canary_late_total").inc(len(result.late))
        metrics.counter("iot_canary_doubled_total").inc(len(result.doubled))
        if result.lost:
            _log.error("lost %s", _listed(result.lost))
        if result.doubled:
            _log.error("doubled %s", _listed(result.doubled))
        if result.late:
            _log.warning("found %s (late; earlier counted as lost)", _listed(result.late))

    def _wait_until_found(self, number: int, until: float) -> None:
        pause = _MIN_PAUSE
        while time.monotonic() < until:
            rows = self._try(lambda: self._client.read(start=number, end=number))
            if rows is None:
                return
            if _canary_contents(rows):
                round_trip = self._watched.mark_found(number, time.monotonic())
                if round_trip is not None:
                    metrics.histogram("iot_canary_round_trip_seconds").observe(round_trip)
                return
            time.sleep(pause)
            pause = min(2 * pause, _MAX_READ_PAUSE)

    def _try(self, request: Callable[[], T]) -> T | None:
        """Return the result of a request, None if it failed. Failures are counted and logged."""
        try:
            result = request()
        except (ClientError, SettingsError) as error:  # SettingsError: the token can't be read
            metrics.counter("iot_canary_failures_total").inc()
            self._warn(str(error))
            return None
        if self._failure:
            _log.info("requests succeed again")
            self._failure = ""
        return result

    def _warn(self, failure: str) -> None:
        """Log a failure; at most once a minute while the failure stays the same."""
        now = time.monotonic()
        if failure != self._failure or now - self._warned_at > _REPEAT_WARNING_SECONDS:
            _log.warning("request failed: %s", failure)
            self._failure, self._warned_at = failure, now


def run(canary: Canary, port: int) -> int:
    """Run the canary until SIGTERM, SIGINT or SIGHUP. Return 0.

    Serve /metrics and /healthz on `port` unless it is 0.
    """
    try:
        with ShutdownSignals(interrupt=True):
            if port:
                monitoring.serve("--metrics-port", _address(), port, {"/healthz": canary.health})
            canary.run()
    except ShutdownRequested as request:
        _log.info("the canary stops: %s", request)
    return 0


def _address() -> str:
    """Return the checked value of IOT_METRICS_ADDRESS. Raises `SettingsError`."""
    try:
        return parse_metrics_address(settings.load_one("metrics_address"))
    except SettingsError as error:
        raise SettingsError(f"IOT_METRICS_ADDRESS: {error}") from None


def _canary_contents(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the decoded `freeform` of the rows that a canary sent.

    Skip rows of other clients, which may use the same password.
    """
    contents = []
    for row in rows:
        # Not all JSON can be decoded: it may have a very long integer, or be nested too deeply.
        with suppress(ValueError, RecursionError):
            content = json.loads(row["freeform"])
            if isinstance(content, dict) and content.get("canary") == row["relative_timestamp"]:
                contents.append(content)
    return contents


def _listed(numbers: list[int]) -> str:
    """Return a text such as `2 readings: numbers 7, 9`."""
    count, plural = len(numbers), "" if len(numbers) == 1 else "s"
    text = ", ".join(map(str, numbers[:_MAX_LISTED]))
    more = f" and {count - _MAX_LISTED} more" if count > _MAX_LISTED else ""
    return f"{count} reading{plural}: number{plural} {text}{more}"
