"""The threads that read new readings for all live streams of a process."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping

from redis.exceptions import RedisError

from iot_models import metrics
from iot_stores.backlog import DrainedShards
from iot_stores.store_states import POSTGRES_UNAVAILABLE, report

from .feed import Feed
from .live_rows import LiveRows
from .source import LiveSource

POLL_SECONDS = 0.1
"""Time between two polls. A poll that finds nothing takes one round trip, for all streams."""
LOOK_SECONDS = 1.0
"""Interval at which all feeds are checked even if no shard was drained. A feed's vault record may
be due for a comparison with Postgres, or a feed's position for an update (`IDLE_SECONDS`)."""
IDLE_SECONDS = 10.0
"""Interval at which the position of a vault without new readings is advanced to the state of the
shards."""
AWAY_SECONDS = 1.0
"""Time until the next poll after an error of Redis."""
_CONSEQUENCE = "live streams get no readings"
_CONSEQUENCE_POSTGRES = "live streams that the hot window can't serve get no readings"

_log = logging.getLogger(__name__)


class LivePoller:
    """Two threads: one polls Redis, the other reads from Postgres.

    So a slow Postgres delays only the vaults that need it.
    """

    def __init__(
        self,
        source: LiveSource,
        feeds: Callable[[], list[Feed]],
        lock: threading.RLock,
        verify: Callable[[Feed], None],
        catch_up: Callable[[], None],
    ) -> None:
        """`feeds` returns all feeds; `lock` guards their positions and listeners. `verify` compares
        the record of a feed's vault with Postgres. `catch_up` is `ChangeFollower.catch_up`.
        """
        self._source = source
        self._feeds = feeds
        self._lock = lock
        self._verify = verify
        self._catch_up = catch_up
        self._positions: Mapping[int, str] = {}
        """How far the shards were drained at the last poll."""
        self._look_at = 0.0
        """Time of the next check of all feeds, even if no shard was drained (`LOOK_SECONDS`)."""
        self._in_postgres: deque[tuple[Feed, DrainedShards]] = deque()
        self._has_feeds = threading.Event()
        self._has_work = threading.Event()
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []
        self._delay = metrics.histogram("iot_live_delay_seconds")

    def start(self) -> None:
        """Start the threads if they do not run, and make the next poll check all feeds."""
        self._look_at = 0.0
        self._has_feeds.set()
        if not self._threads:
            for run in (self._run, self._run_postgres):
                thread = threading.Thread(target=run, name="live", daemon=True)
                self._threads.append(thread)
                thread.start()

    def stop(self) -> None:
        """Tell the threads to end."""
        self._stopping.set()
        self._has_feeds.set()
        self._has_work.set()

    def poll(self) -> None:
        """Read the new readings of all vaults with live streams from the hot window.

        Queue the vaults whose new readings the hot window may lack. They are read from Postgres.

        Raises:
            RedisError: the backlog's Redis failed. The next poll tries again.
        """
        drained = self._source.drained()
        now = time.monotonic()
        if drained.positions == self._positions and now < self._look_at:
            return
        self._positions, self._look_at = drained.positions, now + LOOK_SECONDS
        due = self._due(drained, now)
        if not due:
            return
        lacking = set[Feed]()
        for feed, rows in self._source.recent_rows(due, drained):
            if rows is None:
                lacking.add(feed)
            else:
                self._deliver(feed, rows, drained)
        for feed in due:
            if feed in lacking:
                self._queue(feed, drained)
            else:
                feed.used_postgres = False
                feed.offered = feed.position

    def _due(self, drained: DrainedShards, now: float) -> list[Feed]:
        """Return the feeds to read now. Queue the feeds whose vault records must be verified."""
        due: list[Feed] = []
        for feed in self._feeds():
            if feed.busy:
                continue
            if now >= feed.verify_at:
                self._queue(feed, drained)
            elif feed.is_due(drained, now):
                feed.checked_at = now
                due.append(feed)
            elif now - feed.checked_at >= IDLE_SECONDS and not feed.moved(drained):
                feed.checked_at = now
                feed.complete(drained)
                feed.offered = feed.position
            elif feed.moved(drained):  # and will be due soon
                self._look_at = now
        return due

    def _queue(self, feed: Feed, drained: DrainedShards) -> None:
        feed.busy = True
        self._in_postgres.append((feed, drained))
        self._has_work.set()

    def _deliver(self, feed: Feed, rows: LiveRows, drained: DrainedShards) -> None:
        self._catch_up()
        with self._lock:
            before, feed.position = feed.position, rows.position
            listeners = list(feed.listeners)
        feed.deliver(rows, before, listeners)
        if rows.received:
            self._delay.observe(max(0, drained.now - rows.received[-1]) / 1000)

    def _read_postgres(self, feed: Feed, drained: DrainedShards) -> None:
        feed.used_postgres = True
        feed.checked_at = time.monotonic()
        for rows in self._source.stored_rows(feed, drained):
            self._deliver(feed, rows, drained)
        feed.offered = feed.position

    def _run(self) -> None:
        while not self._stopping.is_set():
            if not self._feeds():
                self._has_feeds.clear()
                if not self._feeds():
                    self._has_feeds.wait()
                continue
            pause = POLL_SECONDS
            try:
                self.poll()
            except RedisError as error:
                report(_log, _CONSEQUENCE, error)
                pause = AWAY_SECONDS
            except Exception:  # noqa: BLE001 - the thread must survive any defect
                _log.exception(_CONSEQUENCE)
                pause = AWAY_SECONDS
            self._stopping.wait(pause)

    def _run_postgres(self) -> None:
        while not self._stopping.is_set():
            if not self._in_postgres:
                self._has_work.clear()
                if not self._in_postgres:
                    self._has_work.wait()
                continue
            feed, drained = self._in_postgres.popleft()
            try:
                if time.monotonic() >= feed.verify_at:
                    self._verify(feed)
                if feed.moved(drained):
                    self._read_postgres(feed, drained)
            except (RedisError, *POSTGRES_UNAVAILABLE) as error:
                report(_log, _CONSEQUENCE_POSTGRES, error)
            except Exception:  # noqa: BLE001 - the thread must survive any defect
                vault_id = feed.vault.vault_id
                _log.exception("the live streams of vault %s get no readings", vault_id)
            finally:
                feed.busy = False
                self._look_at = 0.0
