"""Poll for the readings that the service receives from now on."""

import logging
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from math import ceil
from typing import TYPE_CHECKING, Any

from .arguments import checked_duration
from .errors import RetryableError
from .readings import read_unbroken_page
from .stopwatch import Stopwatch

if TYPE_CHECKING:
    from .client import Client

DAMAGED = "damaged"
"""Error code of the service: it can't read a part of the stored readings."""
MISSING = "readings received from %s to %s may be missing: %s"
"""Log message when damaged readings make a read fail. Arguments: time range, error."""
_ROUNDING_SECONDS = 3
"""Rounding can make a poll begin this much earlier: 1 s each by the header `Date` (whole seconds),
by `_now` and by `ceil`."""

_log = logging.getLogger("iot_sensor_client")


class Follower:
    """Polls for new readings.

    Each poll asks for the readings received since the newest known reading. This finds even a
    reading that is stored an hour late: the service stores the readings of one password in the
    order of receipt, so a late reading was received after all known readings.

    A poll begins `overlap` seconds earlier, because the clocks of the service's machines may
    differ. The poll leaves out readings whose ids are known.
    """

    def __init__(
        self, client: "Client", interval: float, overlap: float, stop: threading.Event
    ) -> None:
        self._client = client
        self._interval = checked_duration("interval", interval)
        self._overlap = timedelta(seconds=checked_duration("overlap", overlap))
        self._stop = stop
        self._seen: dict[int, datetime] = {}
        """Time of receipt by id, for all readings that a later poll may return again."""
        self._newest = datetime.min.replace(tzinfo=UTC)
        self._date = datetime.now(UTC)
        """The time by the service's clock (header `Date`) in the last answer."""
        self._asked = Stopwatch()
        self._oldest = self._newest
        """A reading that was received before this time is not new: `_seen` may lack its id."""
        self._created = Stopwatch()
        self._began = False

    def run(self) -> Iterator[list[dict[str, Any]]]:
        """Poll until `stop` is set. Yield a list of the new readings of each poll, ordered by id.

        A list may be empty. A second call continues after the readings of the first call.
        """
        if not self._began:
            self._begin()
        while not self._stop.wait(self._interval):
            since = self._newest - self._overlap
            rows: list[dict[str, Any]] = []
            try:
                for page in self._poll(max(1, ceil((self._now() - since).total_seconds()))):
                    # A poll may reach back further than the first poll, if the first poll was late.
                    rows += [row for row in page if _received(row) >= self._oldest]
            except RetryableError as error:
                if not is_temporary(error):
                    raise
                if error.code != DAMAGED:
                    _log.warning("follow waits for the service: %s", error)
                    continue
                now = _parsed(error.response.headers["Date"] if error.response else None)
                _log.error(MISSING, since, now, error)
                # A poll that reached back to the same readings would never succeed.
                self._newest = now
            new = sorted(
                (row for row in rows if row["id"] not in self._seen), key=lambda row: int(row["id"])
            )
            for row in rows:
                self._learn(row)
            self._forget()
            yield new

    def _begin(self) -> None:
        # Readings received before this follower was created are not new if they exist now. The
        # iterator begins at the newest of them, or at the current time. Later polls reach back by
        # at most two overlaps and `_ROUNDING_SECONDS`. If this poll reached back less, a later
        # poll could return an old reading that would seem new.
        seconds = ceil(2 * self._overlap.total_seconds()) + _ROUNDING_SECONDS
        rows = [row for page in self._poll(seconds) for row in page]
        # Both `Date` and times of receipt leave out the fraction of a second.
        elapsed = timedelta(seconds=self._created.seconds())
        created = (self._date - elapsed).replace(microsecond=0)
        for row in rows:
            if _received(row) < created:
                self._learn(row)
        self._newest = min(created, max(self._newest, self._date - self._overlap))
        oldest = self._date - 2 * self._overlap - timedelta(seconds=_ROUNDING_SECONDS - 1)
        self._oldest = min(created, oldest)
        self._began = True

    def _poll(self, seconds: int) -> Iterator[list[dict[str, Any]]]:
        query: dict[str, str] = {}
        while True:
            asked = Stopwatch()
            path = f"/api/iot/seconds/{seconds}"
            page, cursor, date = read_unbroken_page(self._client, path, query)
            yield page
            if cursor is None:
                self._asked = asked
                self._date = _parsed(date)
                return
            query["cursor"] = cursor

    def _now(self) -> datetime:
        """Return the time by the service's clock, or a time up to a second later.

        The header `Date` leaves out the fraction of a second, so this method adds a second. A time
        that is too early would be worse: a poll would ask for too few of the last seconds.
        """
        return self._date + timedelta(seconds=1 + self._asked.seconds())

    def _learn(self, row: dict[str, Any]) -> None:
        received = _received(row)
        self._seen[row["id"]] = received
        self._newest = max(self._newest, received)

    def _forget(self) -> None:
        # A poll begins `overlap` before the newest reading. The rest is a margin for clocks.
        oldest = self._newest - 2 * self._overlap - timedelta(seconds=5)
        self._oldest = max(self._oldest, oldest)
        self._seen = {each: at for each, at in self._seen.items() if at >= self._oldest}


def is_temporary(error: RetryableError) -> bool:
    """Return whether an error may be temporary. A follower then waits and tries again."""
    return error.status is None or error.status in {408, 429} or error.status >= 500


def _received(row: dict[str, Any]) -> datetime:
    return datetime.fromisoformat(row["absolute_timestamp"]).replace(tzinfo=UTC)


def _parsed(date: str | None) -> datetime:
    try:
        return parsedate_to_datetime(date or "").astimezone(UTC)
    except ValueError:
        return datetime.now(UTC)
