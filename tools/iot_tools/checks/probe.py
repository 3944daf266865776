"""One reading in and out again, as `helm test` does it."""

import json
import re
import secrets
import time
import uuid
from collections.abc import Callable
from typing import Any, TypeVar

from iot_models.errors import IotError

from .http_client import ApiClient, NotDeliveredError, RefusedError

_PAUSE = 0.5
_CLOCKS_APART = 120
"""Seconds that the clocks of the service's parts may differ by."""
_MOMENT = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d")
_SAYS = {401: "doesn't know the token", 403: "doesn't allow it to the token"}

T = TypeVar("T")


class ProbeError(IotError):
    """What is not as it should be, in one sentence."""


class Probe:
    """Sends under one password; a service that isn't reachable yet is waited for."""

    def __init__(self, url: str, password: str, *, token: str, timeout: float) -> None:
        """Raises `ValueError` when the URL is none."""
        self._url = url
        self._client = ApiClient(url, password, token=token)
        self._stranger = ApiClient(url, f"not {secrets.token_urlsafe(24)}", token=token)
        self._timeout = timeout
        self._end = 0.0

    def run(self) -> float:
        """Store, read, compare; the seconds from the acknowledgement until it was read.

        Raises:
            ProbeError: it didn't work, or not in time.
        """
        self._end = time.monotonic() + self._timeout
        sent = _reading()
        try:
            self._patiently("send a reading", lambda: self._client.put([sent], str(uuid.uuid4())))
            began = time.monotonic()
            found = self._found(sent["freeform"]["probe"])
            took = time.monotonic() - began
            _compare(sent, found)
            others = self._patiently("read", lambda: self._stranger.last(10))
            if others:
                raise ProbeError(f"a password that nobody knows reads {len(others)} readings")
        finally:
            self._client.close()
            self._stranger.close()
        return took

    def _found(self, name: str) -> dict[str, Any]:
        reach = int(self._timeout) + _CLOCKS_APART
        while True:
            rows = self._patiently("read", lambda: self._client.recent(reach))
            ours = [row for row in rows if name in str(row.get("freeform"))]
            if len(ours) > 1:
                raise ProbeError(f"the reading is there {len(ours)} times")
            if ours:
                return ours[0]
            if not self._pause():
                raise ProbeError(
                    f"the reading was acknowledged, but could not be read within "
                    f"{self._timeout:g} s: is a writer running?"
                )

    def _patiently(self, what: str, ask: Callable[[], T]) -> T:
        """The answer, asked for until the time is over."""
        while True:
            try:
                return ask()
            except RefusedError as error:
                raise ProbeError(f"{self._url} refuses to {what}: {error}") from None
            except NotDeliveredError as error:
                if error.status in _SAYS:
                    raise ProbeError(
                        f"{self._url} {_SAYS[error.status]}, to {what}: {error}"
                    ) from None
                if not self._pause():
                    how = "can't be reached" if error.status is None else f"fails to {what}"
                    raise ProbeError(
                        f"{self._url} {how} (tried for {self._timeout:g} s): {error}"
                    ) from None

    def _pause(self) -> bool:
        """Wait a moment; False when the time is over."""
        if time.monotonic() + _PAUSE > self._end:
            return False
        time.sleep(_PAUSE)
        return True


def _reading() -> dict[str, Any]:
    """Like no other one. Its relative time is below 0, where it tells nobody a new maximum."""
    return {
        "relative_time": -1 - secrets.randbelow(2**40),
        "interrogator_time": time.time_ns() // 1000,
        "freeform": {
            "probe": str(uuid.uuid4()),
            "text": 'tag "7" at 21 °C \\ 温度 \U0001f321',
            "numbers": [0, -1.5, 2**53, None, True],
        },
    }


def _compare(sent: dict[str, Any], found: dict[str, Any]) -> None:
    number, received = found.get("id"), str(found.get("absolute_timestamp"))
    if not (isinstance(number, int) and 0 < number < 2**53 and _MOMENT.fullmatch(received)):
        raise ProbeError("the reading has no id or no time of receipt")
    fields = ("relative_timestamp", "interrogator_timestamp")
    came = {name: found.get(name) for name in fields} | {"freeform": _parsed(found)}
    times = (sent["relative_time"], sent["interrogator_time"])
    wanted = dict(zip(fields, times, strict=True)) | {"freeform": sent["freeform"]}
    for name, value in wanted.items():
        if came[name] != value:
            raise ProbeError(f"the reading came back altered: {name} was {value!r}, and is "
                             f"{came[name]!r}")  # fmt: skip


def _parsed(found: dict[str, Any]) -> object:
    try:
        return json.loads(found["freeform"])
    except (KeyError, TypeError, ValueError):
        return found.get("freeform")
