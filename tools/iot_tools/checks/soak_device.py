"""A device of `iot-sensor soak`: sends numbered readings and records every request."""

import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from iot_sensor_client import Client, NoResponseError, Response

_MIN_PAUSE = 0.2
_MAX_PAUSE = 5.0
_READ_EVERY = 10
"""Number of readings that a device sends between two reads of its last reading."""
_MAX_LAG_SECONDS = 1.0
"""After a slow request, a device sends faster than its rate to make up for the delay, but makes up
for at most this many seconds."""
_MAX_FAILURES = 20


@dataclass
class Account:
    """What happened to the requests and readings of a device."""

    requests: int = 0
    failed: int = 0
    """Requests that got no response, or a response other than a success, 429 or 503."""
    refused: int = 0
    """Requests that were answered 429 or 503."""
    failures: list[str] = field(default_factory=list)
    """Time, request and reason of the first failures."""
    slowest: float = 0.0
    """Seconds of the slowest request."""
    sent: int = 0
    acknowledged: set[int] = field(default_factory=set)
    stored: bool = False
    """Whether the service said that the last reading is stored. All earlier readings are stored
    before the last one (see `SoakDevice._store_last`)."""
    lost: int = 0
    """Readings that were acknowledged, and could not be read."""
    doubled: int = 0
    strange: int = 0
    """Readings that came back changed, or were never sent."""


class SoakDevice:
    """Sends numbered readings. Reading n has the relative time n and the interrogator time n.

    A reading is sent again and again, with the same Idempotency-Key, until it is acknowledged. It
    must then be stored exactly once, however many requests failed. Each device has its own
    password, and so its own vault.
    """

    def __init__(self, name: str, password: str, client: Client, *, rate: float) -> None:
        self.name = name
        self.account = Account()
        self._password = password
        self._client = client
        self._interval = 1 / rate

    def run(self, stop: threading.Event, *, settle: float) -> None:
        """Send until `stop` is set.

        Then resend the last reading for up to `settle` seconds, if it is not acknowledged.
        """
        due = time.monotonic()
        while not stop.is_set():
            self._send_next(stop, settle)
            if self.account.sent % _READ_EVERY == 0 and self.account.acknowledged:
                self._request("POST", "/api/iot/last/1", self._credentials())
            due = max(due + self._interval, time.monotonic() - _MAX_LAG_SECONDS)
            stop.wait(max(0.0, due - time.monotonic()))

    def verify(self, deadline: float) -> None:
        """Wait until all readings are stored, read them, and note in `account` what is wrong.

        `deadline` is a time of `time.monotonic`.
        """
        if self.account.acknowledged:
            self.account.stored = self._store_last(deadline)
            self._compare(self._read_all(deadline))
        self._client.close()

    def _send_next(self, stop: threading.Event, settle: float) -> None:
        """Send the next reading again and again until it is acknowledged.

        Once `stop` is set, give up after `settle` more seconds.
        """
        number = self._next_number()
        pause, deadline = _MIN_PAUSE, None
        while self._put(number, "/api/iot") is None:
            if stop.is_set():
                deadline = deadline or time.monotonic() + settle
                if time.monotonic() > deadline:
                    return
                time.sleep(pause)
            else:
                stop.wait(pause)
            pause = min(2 * pause, _MAX_PAUSE)

    def _store_last(self, deadline: float) -> bool:
        """Send one more reading and wait until it is stored. Return whether it is.

        The entries of a shard are stored in order, so all earlier readings are stored as well.
        """
        number = self._next_number()
        receipt = ""
        while time.monotonic() < deadline:
            if receipt:
                response = self._request("GET", receipt)
                if response is not None and response.status == 200:
                    return True
            else:
                response = self._put(number, "/api/iot?ack=stored")
                if response is not None and response.status == 201:
                    return True
                receipt = _json_object(response).get("ask", "")
            time.sleep(_MIN_PAUSE)
        return False

    def _read_all(self, deadline: float) -> list[Any]:
        """Return all readings of the password.

        Read again until all acknowledged readings are there, or until the deadline.
        """
        rows: list[Any] = []
        while True:
            response = self._request("POST", "/api/iot", self._credentials())
            if response is not None and response.status == 200:
                rows = _json_object(response).get("data", rows)
            if self.account.acknowledged <= {row["relative_timestamp"] for row in rows}:
                return rows
            if time.monotonic() > deadline:
                return rows
            time.sleep(_MIN_PAUSE)

    def _next_number(self) -> int:
        number = self.account.sent
        self.account.sent += 1
        return number

    def _put(self, number: int, path: str) -> Response | None:
        """Send a reading once. Return the response; None if the reading is not acknowledged."""
        data = {
            "db_password": self._password,
            "relative_time": number,
            "interrogator_time": number,
            "freeform": number,
        }
        headers = {"Idempotency-Key": f"{self.name}-{number}"}
        response = self._request("PUT", path, {"data": data}, headers)
        if response is None or response.status not in {201, 202}:
            return None
        self.account.acknowledged.add(number)
        return response

    def _credentials(self) -> dict[str, Any]:
        return {"data": {"db_password": self._password}}

    def _request(
        self, method: str, path: str, body: object = None, headers: dict[str, str] | None = None
    ) -> Response | None:
        """Send one request and record it. Return the response, or None if no response came."""
        began = time.monotonic()
        self.account.requests += 1
        receipt_left_out = path.partition("stored/")[0]
        request = f"{method} {receipt_left_out}"
        try:
            # Each request is sent once, so that the client hides no failure.
            response = self._client.request(
                method, path, None, headers, json=body, repeatable=False
            )
        except NoResponseError as error:
            self.account.failed += 1
            self._note(f"{request}: {error}")
            return None
        finally:
            self.account.slowest = max(self.account.slowest, time.monotonic() - began)
        if response.status in {429, 503}:
            self.account.refused += 1
        elif response.status >= 300:
            self.account.failed += 1
        else:
            return response
        self._note(f"{request}: {response.status} {response.text(200).strip()}")
        return response

    def _note(self, failure: str) -> None:
        if len(self.account.failures) < _MAX_FAILURES:
            now = datetime.now(UTC).strftime("%H:%M:%S.%f")[:-3]
            self.account.failures.append(f"{now} {self.name}: {failure}")

    def _compare(self, rows: list[Any]) -> None:
        account = self.account
        counts = Counter(row["relative_timestamp"] for row in rows)
        account.lost = len(account.acknowledged - set(counts))
        account.doubled = sum(1 for count in counts.values() if count > 1)
        account.strange = sum(
            1
            for row in rows
            if not 0 <= row["relative_timestamp"] < account.sent
            or row["interrogator_timestamp"] != row["relative_timestamp"]
            or row["freeform"] != str(row["relative_timestamp"])
        )


def _json_object(response: Response | None) -> dict[str, Any]:
    """Return the JSON object in a response; an empty object if the response has no object."""
    try:
        content = None if response is None else response.json()
    except ValueError:
        content = None
    return content if isinstance(content, dict) else {}
