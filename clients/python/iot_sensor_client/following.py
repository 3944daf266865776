"""Live readings: those received from now on, as they can be read."""

import logging
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from math import ceil
from typing import TYPE_CHECKING, Any

from .errors import RetryableError
from .readings import PAGE_SIZE, read_page

if TYPE_CHECKING:
    from .client import Client

_ROUNDING_SECONDS = 3
"""Sum of three roundings of up to 1 s: the header `Date` (whole seconds), `_now` and `ceil`."""

_log = logging.getLogger("iot_sensor_client")


class Follower:
    """Polls for readings.

    The service stores readings of one password in the order of their receipt. So each poll reads
    from some seconds before the receipt of the newest reading it knows, however long ago that is:
    readings that could not be stored for an hour are in it. Ids tell which are new.
    """

    def __init__(
        self, client: "Client", interval: float, overlap: float, stop: threading.Event
    ) -> None:
        self._client = client
        self._interval = interval
        self._overlap = timedelta(seconds=overlap)
        self._stop = stop
        self._seen: dict[int, datetime] = {}
        """Time of receipt by id, for all readings that a later poll may return again."""
        self._newest = datetime.min.replace(tzinfo=UTC)
        self._date = datetime.now(UTC)
        """The clock of the service at the last answer."""
        self._asked = time.monotonic()

    def run(self) -> Iterator[list[dict[str, Any]]]:
        """Return an iterator over the new readings of each poll, oldest id first."""
        # Readings that exist now are old. The iterator begins at the newest of them, or at the
        # current time. Later polls reach back by two overlaps at most, and by `_ROUNDING_SECONDS`:
        # what they return and this poll does not would seem new.
        for row in self._poll(ceil(2 * self._overlap.total_seconds()) + _ROUNDING_SECONDS):
            self._learn(row)
        begin = self._date
        self._newest = max(self._newest, begin - self._overlap)
        while not self._stop.wait(self._interval):
            since = self._now() - self._newest + self._overlap
            try:
                rows = self._poll(max(1, ceil(since.total_seconds())))
            except RetryableError as error:
                if not is_temporary(error):
                    raise
                _log.warning("follow waits for the service: %s", error)
                continue
            new = sorted(
                (row for row in rows if row["id"] not in self._seen), key=lambda row: int(row["id"])
            )
            for row in rows:
                self._learn(row)
            self._forget()
            if new:
                yield new

    def _poll(self, seconds: int) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        cursor = ""
        while True:
            asked = time.monotonic()
            path = f"/api/iot/seconds/{seconds}?limit={PAGE_SIZE}{cursor}"
            page, following, date = read_page(self._client, path)
            found += page
            if following is None:
                self._asked = asked
                self._date = _parsed(date)
                return found
            cursor = f"&cursor={following}"

    def _now(self) -> datetime:
        """Return the service's clock now, or a little later."""
        return self._date + timedelta(seconds=1 + time.monotonic() - self._asked)

    def _learn(self, row: dict[str, Any]) -> None:
        received = datetime.fromisoformat(row["absolute_timestamp"]).replace(tzinfo=UTC)
        self._seen[row["id"]] = received
        self._newest = max(self._newest, received)

    def _forget(self) -> None:
        # A poll begins `overlap` before the newest reading; a margin for the clock of the answers.
        oldest = self._newest - 2 * self._overlap - timedelta(seconds=5)
        self._seen = {each: at for each, at in self._seen.items() if at >= oldest}


def is_temporary(error: RetryableError) -> bool:
    """Return whether a follower waits for the end of an error."""
    return error.status is None or error.status in {408, 429} or error.status >= 500


def _parsed(date: str | None) -> datetime:
    try:
        return parsedate_to_datetime(date or "").astimezone(UTC)
    except ValueError:
        return datetime.now(UTC)
