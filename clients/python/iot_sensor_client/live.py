"""New readings through the live stream of the service."""

import http.client
import json
import logging
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from math import ceil
from typing import TYPE_CHECKING, Any

from .connections import Stream
from .errors import (
    FOREIGN,
    NoResponseError,
    RetryableError,
    TrustError,
    json_members,
    raise_for_status,
)
from .following import DAMAGED, MISSING, Follower, is_temporary
from .readings import read_unbroken_page, time_range
from .response import Response
from .retry import RetryPolicy, doubled
from .stopwatch import Stopwatch

if TYPE_CHECKING:
    from .client import Client

STREAM_SECONDS = 60.0
"""Timeout of a stream until its first event: the longest time without a byte. The first event names
the interval of the service's `heartbeat` events; from then on, the timeout depends on it."""
_PATH = "/api/iot/live"
_KNOWN_IDS = 100_000
"""Maximum number of ids of received readings to remember. If the stream left out readings of a
range of time, the follower reads all readings of this range, and drops those with a known id."""
_STOP_SECONDS = 0.2
_MAX_VAULT_SECONDS = 10.0
"""Maximum of the growing pause, in seconds, between two attempts to open a stream, while no vault
has the password."""
_POLLING_SECONDS = 30.0
"""Seconds between two attempts to open a stream, while the follower polls."""
_UNSUPPORTED = frozenset({HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED})

_log = logging.getLogger("iot_sensor_client")
_Rows = list[dict[str, Any]]


class LiveFollower:
    """Follows a live stream. After a lost connection, continues after the last received event."""

    def __init__(
        self,
        client: "Client",
        polling: Follower,
        interval: float,
        retry: RetryPolicy,
        stop: threading.Event | None,
    ) -> None:
        """`polling` replaces the stream while the service has no live streams, or no free one."""
        self._client = client
        self._polling = polling
        self._interval = interval
        self._retry = retry
        self._stoppable = stop is not None
        self._stop = stop or threading.Event()
        self._began, self._started = Stopwatch(), time.monotonic()
        self._attempts = 0
        self._connected = False
        """Whether any stream has delivered an event."""
        self._has_polled = False
        """Whether any poll has succeeded."""
        self._waits_for_vault = False
        self._position = ""
        self._known: dict[int, None] = {}

    def run(self) -> Iterator[_Rows]:
        """Yield lists of new readings, each in the order of ids. A list may be empty.

        The lists are in the order of ids, too, except those of `_left_out`.
        """
        while not self._stop.is_set():
            self._attempts += 1
            try:
                stream = self._open(self._position)
            except NoResponseError as error:
                self._wait(error)
                continue
            if stream.response.status == HTTPStatus.OK:
                yield from self._followed(stream)
                continue
            stream.close()
            if self._must_poll(stream.response):
                yield from self._polled()
                continue
            self._use_refusal(stream.response)

    def _open(self, position: str = "") -> Stream:
        headers = {"Last-Event-ID": position} if position else {}
        return self._client.open_stream(_PATH, {"data": self._client.credentials}, headers)

    def _polled(self) -> Iterator[_Rows]:
        """Poll until the service has a stream for this follower, and follow the stream.

        The last poll comes after the stream was opened, so this poll finds all readings that were
        stored before the stream began.
        """
        ask_at = time.monotonic() + _POLLING_SECONDS
        stream: Stream | None = None
        try:
            for rows in self._polling.run():
                self._has_polled = True
                yield self._new(rows)
                if stream is not None:
                    yield from self._followed(stream, read_back=False)
                    return
                if time.monotonic() >= ask_at:
                    ask_at = time.monotonic() + _POLLING_SECONDS
                    stream = self._free_stream()
        finally:
            if stream is not None:
                stream.close()

    def _free_stream(self) -> Stream | None:
        """Return a stream of the readings that are stored from now on; None if no stream opens."""
        with suppress(NoResponseError):
            began = Stopwatch()
            stream = self._open()
            if stream.response.status == HTTPStatus.OK:
                self._began = began
                return stream
            stream.close()
        return None

    def _followed(self, stream: Stream, *, read_back: bool = True) -> Iterator[_Rows]:
        done = threading.Event()
        if self._stoppable:
            watch = threading.Thread(target=self._abort_at_stop, args=(stream, done), daemon=True)
            watch.start()
        try:
            for part in self._parts(stream, read_back=read_back):
                yield from part
        finally:
            done.set()
            stream.close()
        self._stop.wait(self._interval)

    def _parts(self, stream: Stream, *, read_back: bool) -> Iterator[Iterable[_Rows]]:
        """Yield the new readings of each event, until the stream ends or the connection is lost.

        The caller iterates over the parts, so errors of `_left_out`, such as those of the user's
        token function, are not taken for errors of the stream.
        """
        try:
            yield from self._parsed(stream, read_back=read_back)
        except (OSError, http.client.HTTPException) as error:
            if not self._stop.is_set():
                _log.warning("follow lost the live stream and connects again: %s", error)
        except (ValueError, KeyError, TypeError):
            raise RetryableError(FOREIGN, stream.response) from None

    def _parsed(self, stream: Stream, *, read_back: bool) -> Iterator[Iterable[_Rows]]:
        if stream.response.headers.get_content_type() != "text/event-stream":
            raise ValueError("the response is not a stream of events")
        for name, event_id, data in _events(stream.pieces()):
            self._connected, self._attempts, self._waits_for_vault = True, 1, False
            if name == "open":
                if "heartbeat" in data:
                    stream.set_timeout(2 * data["heartbeat"] + 10)
                if read_back and not self._position:
                    # Readings received since the first attempt are new. Those that were stored
                    # before the stream began do not come with the stream.
                    begin = data["time"] - ceil(self._began.seconds() * 1000)
                    yield self._left_out(_utc(begin))
            elif name == "error":
                _log.warning("the service ends the live stream: %s", data.get("error"))
            elif name == "readings":
                yield [self._new(data["data"])]
            elif name == "summary":
                until = _utc(data["to"]) + timedelta(milliseconds=1)
                yield self._left_out(_utc(data["from"]), until)
            self._position = event_id or self._position

    def _abort_at_stop(self, stream: Stream, done: threading.Event) -> None:
        while not done.wait(_STOP_SECONDS):
            if self._stop.is_set():
                stream.abort()
                return

    def _new(self, rows: _Rows) -> _Rows:
        new = [row for row in rows if row["id"] not in self._known]
        self._known.update(dict.fromkeys(row["id"] for row in new))
        while len(self._known) > _KNOWN_IDS:
            del self._known[next(iter(self._known))]
        return new

    def _left_out(self, since: datetime, until: datetime | None = None) -> Iterator[_Rows]:
        """Yield what the stream left out: readings received from `since` on and before `until`.

        The pages are in the order of interrogator timestamps. A page that can't be read now is read
        again later, until `stop` is set. At a damaged page, give up the rest of the range: a new
        stream would leave out the same readings.
        """
        query = time_range(since, until, "received")
        while not self._stop.is_set():
            try:
                page, cursor, _ = read_unbroken_page(self._client, "/api/iot", query)
            except RetryableError as error:
                if error.code == DAMAGED:
                    _log.error(MISSING, since, until or "now", error)
                    return
                self._wait(error)
                continue
            yield self._new(sorted(page, key=lambda row: int(row["id"])))
            if cursor is None:
                return
            query["cursor"] = cursor

    def _must_poll(self, response: Response) -> bool:
        """Return whether the service has no live streams, or no free one for a new follower."""
        if self._connected:
            return False
        members = json_members(response)
        if response.status in _UNSUPPORTED:
            return "field" not in members  # else no vault has the password yet
        # An old service takes the path for a read from the relative timestamp "live" on.
        return members.get("field") == "start" or members.get("reason") == "live_streams"

    def _use_refusal(self, response: Response) -> None:
        members = json_members(response)
        if response.status == HTTPStatus.NOT_FOUND and members.get("field") == "db_password":
            self._wait_for_vault()
        elif members.get("field") == "Last-Event-ID":  # the event of an erased vault
            self._position = ""  # all readings of the new vault are new
        else:
            try:
                raise_for_status(response)
            except RetryableError as error:
                self._wait(error)
            else:  # another 2xx than 200
                raise RetryableError(FOREIGN, response)

    def _wait_for_vault(self) -> None:
        """Wait before the next attempt, because no vault has the password yet.

        Wait 1 s first, then twice as long each time: each attempt costs the service a scrypt, and
        counts as a guess.
        """
        if not self._waits_for_vault:
            self._waits_for_vault = True
            _log.warning("no vault has this password: follow waits for its first reading")
        pause = doubled(1.0, self._attempts, _MAX_VAULT_SECONDS)
        self._stop.wait(max(pause, self._interval))

    def _wait(self, error: RetryableError) -> None:
        """Wait before the next attempt. Raise `error` if it is not temporary.

        Before the first success, also raise `error` if it is a `TrustError`, or if the retry policy
        gives up. Successes are: an event of a stream, a poll, the answer that no vault has the
        password.
        """
        if not is_temporary(error):
            raise error
        pause: float | None = max(self._interval, error.retry_after or 0.0)
        reached = self._connected or self._has_polled or self._waits_for_vault
        if not reached:
            elapsed = time.monotonic() - self._started  # without suspends
            pause = self._retry.pause(self._attempts, elapsed, error.retry_after)
        if pause is None or (isinstance(error, TrustError) and not reached):
            raise error
        if reached:
            _log.warning("follow waits for the service: %s", error)
        self._stop.wait(pause)


def _utc(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


def _events(pieces: Iterator[bytes]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield name, id and data of each server-sent event."""
    waiting = bytearray()
    for piece in pieces:
        begin = max(0, len(waiting) - 1)
        waiting += piece
        while (end := waiting.find(b"\n\n", begin)) >= 0:
            lines = waiting[:end].decode().split("\n")
            del waiting[: end + 2]
            begin = 0
            fields = {name: value for name, _, value in (line.partition(": ") for line in lines)}
            yield fields["event"], fields.get("id", ""), json.loads(fields["data"])
