"""The probe, which `helm test` runs: sends one reading and reads it back."""

import json
import re
import secrets
import ssl
import time
import uuid
from collections.abc import Callable
from typing import Any, TypeVar

from iot_models.errors import IotError
from iot_sensor_client import Client, RejectedError, RetryableError, RetryPolicy

_PAUSE_SECONDS = 0.5
_CLOCK_SKEW_SECONDS = 120
"""Largest clock skew that the probe tolerates."""
_TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d")

T = TypeVar("T")


class ProbeError(IotError):
    """The service did not store or return a reading as it should."""


class Probe:
    """Tests the service with one reading. Repeats requests while the service is unavailable."""

    def __init__(
        self,
        url: str,
        password: str,
        *,
        token: str,
        timeout: float,
        tls_context: ssl.SSLContext | None = None,
    ) -> None:
        """Raises `ValueError` if `url` is not an http or https URL."""
        self._url = url
        # The probe repeats requests itself, until its timeout.
        once = RetryPolicy(max_attempts=1)
        self._client = Client(url, password, token, retry=once, tls_context=tls_context)
        unknown_password = f"not {secrets.token_urlsafe(24)}"
        self._stranger = Client(url, unknown_password, token, retry=once, tls_context=tls_context)
        self._timeout = timeout
        self._deadline = 0.0

    def run(self) -> float:
        """Send a reading, read it and compare. Check that an unknown password returns no reading.

        Return the seconds from the 201 to the read that found the reading.

        Raises:
            ProbeError: a step failed, or the steps together took longer than `timeout` seconds.
        """
        self._deadline = time.monotonic() + self._timeout
        sent, key = _reading(), str(uuid.uuid4())
        try:
            self._repeat(
                "send a reading",
                lambda: self._client.put_readings([sent], idempotency_key=key),
            )
            acknowledged_at = time.monotonic()
            received = self._find(sent["freeform"]["probe"])
            seconds = time.monotonic() - acknowledged_at
            _compare(sent, received)
            foreign = self._repeat("read", lambda: self._stranger.read(last=10))
            if foreign:
                raise ProbeError(
                    f"isolation failure: an unknown password returned {len(foreign)} reading(s)"
                )
        finally:
            self._client.close()
            self._stranger.close()
        return seconds

    def _find(self, name: str) -> dict[str, Any]:
        period = int(self._timeout) + _CLOCK_SKEW_SECONDS
        while True:
            rows = self._repeat("read", lambda: self._client.read(seconds=period))
            found = [row for row in rows if name in str(row.get("freeform"))]
            if len(found) > 1:
                raise ProbeError(f"the reading is stored {len(found)} times")
            if found:
                return found[0]
            if not self._pause():
                raise ProbeError(
                    f"the reading was acknowledged, but could not be read within "
                    f"{self._timeout:g} s: is a writer running?"
                )

    def _repeat(self, action: str, request: Callable[[], T]) -> T:
        """Send a request until it succeeds, and return its result.

        `action` says in error messages what the request does, such as "read".

        Raises:
            ProbeError: the service refused the request for good, for example because of the token,
                or all attempts before the deadline failed.
        """
        while True:
            try:
                return request()
            except RejectedError as error:
                raise ProbeError(f"{self._url} rejected a request to {action}: {error}") from None
            except RetryableError as error:
                if error.status == 401:
                    reason = "does not know the token"
                elif error.status == 403:
                    reason = f"does not allow this token to {action}"
                elif self._pause():
                    continue
                elif error.status is None:
                    reason = f"can't be reached (tried for {self._timeout:g} s)"
                else:
                    reason = f"failed to answer requests to {action} for {self._timeout:g} s"
                raise ProbeError(f"{self._url} {reason}: {error}") from None

    def _pause(self) -> bool:
        """Wait a moment. Return False if the deadline is reached."""
        if time.monotonic() + _PAUSE_SECONDS > self._deadline:
            return False
        time.sleep(_PAUSE_SECONDS)
        return True


def _reading() -> dict[str, Any]:
    """Return a unique reading. Its relative time is negative, so that `maxtime` stays the same."""
    return {
        "relative_time": -1 - secrets.randbelow(2**40),
        "interrogator_time": time.time_ns() // 1000,
        "freeform": {
            "probe": str(uuid.uuid4()),
            "text": 'tag "7" at 21 °C \\ 温度 \U0001f321',
            "numbers": [0, -1.5, 2**53, None, True],
        },
    }


def _compare(sent: dict[str, Any], received: dict[str, Any]) -> None:
    """Raise `ProbeError` unless the reading came back unchanged, with valid id and times."""
    number, timestamp = received.get("id"), str(received.get("absolute_timestamp"))
    if not (isinstance(number, int) and 0 < number < 2**53 and _TIMESTAMP.fullmatch(timestamp)):
        raise ProbeError("the reading came back without a valid id or time of receipt")
    expected = {
        "relative_timestamp": sent["relative_time"],
        "interrogator_timestamp": sent["interrogator_time"],
        "freeform": sent["freeform"],
    }
    for name, before in expected.items():
        after = _freeform(received) if name == "freeform" else received.get(name)
        if after != before:
            raise ProbeError(
                f"the reading came back altered: {name} was {before!r} and is now {after!r}"
            )


def _freeform(received: dict[str, Any]) -> object:
    try:
        return json.loads(received["freeform"])
    except (KeyError, TypeError, ValueError):
        return received.get("freeform")
