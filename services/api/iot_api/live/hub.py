"""All live streams of an API process: one poll for all vaults, one decryption for all listeners."""

import logging
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from redis.exceptions import RedisError

from iot_api.limits.clients import Client
from iot_api.vaults.cache import SETTLING_SECONDS, CachedVault
from iot_api.vaults.keeper import VaultKeeper
from iot_cipher.encryption import OpenVault
from iot_models import metrics
from iot_models.errors import (
    IotError,
    NotFoundError,
    Refusal,
    TooManyRequestsError,
    UnavailableError,
)
from iot_models.reading import Reading
from iot_models.segment import ID_STRIDE
from iot_stores.backlog import DrainedShards
from iot_stores.password_changes import ERASED
from iot_stores.postgres import AWAY
from iot_stores.store_states import report
from iot_stores.vault_records import PolicyChangedError, VaultErasedError

from .events import events_of
from .listener import Listener
from .position import LivePosition
from .source import LiveRows, LiveSource, Watched

POLL_SECONDS = 0.1
"""Time between two polls. A poll that finds nothing takes one round trip, for all streams."""
OTHER_SHARDS_SECONDS = 1.0
"""Other shards than the vault's own are read this often: while IOT_SHARDS is being changed, a vault
has readings in two shards."""
POSTGRES_SECONDS = 0.5
"""Shortest time between two reads of a vault in Postgres."""
IDLE_SECONDS = 10.0
"""The position of a vault without new readings is brought up to date this often."""
AWAY_SECONDS = 1.0
"""Time until the next poll after an error of a store."""
VERIFY_SECONDS = 300.0
"""Time between two comparisons of the vault's record with Postgres."""
VERIFY_CHANGED_SECONDS = 2.0
"""The same, after a change of the password was announced: the change may not be made yet."""
REFUSED_SECONDS = 5
"""`Retry-After` of a stream beyond a limit."""

_log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False, kw_only=True)
class Feed(Watched):
    """The new readings of one vault, for all of its listeners in this process."""

    offered: LivePosition
    """Up to here, all readings were offered to the listeners."""
    own_shard: int
    listeners: list[Listener] = field(default_factory=list)
    verify_at: float = 0.0

    def is_due(self, drained: DrainedShards, now: float) -> bool:
        """Return whether the vault may have new readings, and may be read now."""
        moved = self.moved(drained)
        age = now - self.checked_at
        if not moved or (self.used_postgres and age < POSTGRES_SECONDS):
            return False
        return self.own_shard in moved or age >= OTHER_SHARDS_SECONDS

    def deliver(self, rows: LiveRows, before: LivePosition, listeners: list[Listener]) -> None:
        """Offer readings behind `before` to listeners, event by event. Encodes them once."""
        level = [each for each in listeners if before.includes(each.joined_at)]
        vault_id = self.vault.vault_id.bytes
        if level:
            for event in events_of(rows, before, vault_id):
                for listener in level:
                    listener.offer(event)
                time.sleep(0)  # let the listeners send: they keep a few events only
        for listener in set(listeners).difference(level):
            own = _beyond(rows, listener.joined_at)
            for event in events_of(own, before.advanced(listener.joined_at.ids), vault_id):
                listener.offer(event)


@dataclass(frozen=True, slots=True)
class Joined:
    """A listener, and where it joined the feed of its vault."""

    listener: Listener
    feed: Feed
    until: LivePosition
    """The listener gets what lies behind this position. The caller reads what lies before."""
    reached: dict[int, str]
    """The drains that reach the position `until`."""

    def position_now(self, position: LivePosition) -> LivePosition:
        """Return the position of a client that has all events, brought up to date."""
        offered = self.feed.offered
        if not self.listener.is_idle:
            return position
        return position.advanced(offered.ids, offered.since)


class LiveHub:
    """The live streams of a process, and the thread that polls for them while there are any."""

    def __init__(
        self,
        source: LiveSource,
        keeper: VaultKeeper,
        *,
        shards: int,
        max_listeners: int,
        max_listeners_per_client: int,
    ) -> None:
        self.source = source
        self._keeper = keeper
        self._shards = shards
        self._max_listeners = max_listeners
        self._max_listeners_per_client = max_listeners_per_client
        self._feeds: dict[uuid.UUID, Feed] = {}
        self._clients: Counter[str] = Counter()
        self._changing: dict[uuid.UUID, float] = {}
        """Vaults whose password is being changed, and until when that settles."""
        self._lock = threading.RLock()
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._gauge = metrics.gauge("iot_live_listeners")
        self._gauge.set(0)

    def open(
        self,
        cached: CachedVault,
        client: Client,
        position: LivePosition | None,
        still_allowed: Callable[[], object],
    ) -> Joined:
        """Add a listener behind `position`; None: behind all readings that are stored now.

        Raises:
            TooManyRequestsError: the process or the client has its maximum of listeners.
            UnavailableError: this process ends.
            RedisError: the backlog's Redis is away.
        """
        self._check_limits(client)
        vault_id = cached.record.vault_id
        new = None if vault_id in self._feeds else self._feed(cached.vault)
        with self._lock:
            self._check_limits(client)
            feed = self._feeds.get(vault_id, new)
            if feed is None:  # its last listener has left meanwhile
                raise UnavailableError("the live stream is being restarted; connect again")
            self._feeds[vault_id] = feed
            listener = Listener(client, cached.record, position or feed.position, still_allowed)
            feed.listeners.append(listener)
            feed.verify_at = time.monotonic() + self._verify_seconds(vault_id)
            self._clients[client.name] += 1
            until, reached = feed.position, dict(feed.reached)
            self._start()
        self._gauge.inc()
        return Joined(listener, feed, until, reached)

    def close(self, listener: Listener) -> None:
        """Remove a listener. Idempotent."""
        with self._lock:
            vault_id = listener.record.vault_id
            feed = self._feeds.get(vault_id)
            if feed is None or listener not in feed.listeners:
                return
            feed.listeners.remove(listener)
            if not feed.listeners:
                del self._feeds[vault_id]
            self._clients -= Counter([listener.client.name])
        self._gauge.dec()

    def note_change(self, vault_id: uuid.UUID, lookup: bytes) -> None:
        """End the streams of a vault under another password than the new one. `lookup` is that of
        the new password, or `ERASED`.
        """
        with self._lock:
            now = time.monotonic()
            self._changing = {each: until for each, until in self._changing.items() if until > now}
            self._changing[vault_id] = now + SETTLING_SECONDS
            feed = self._feeds.get(vault_id)
            for listener in [] if feed is None else feed.listeners:
                if listener.record.lookup != lookup:
                    listener.end(_gone(erased=lookup == ERASED))

    def stop(self) -> None:
        """End all streams, and refuse new ones. The process ends."""
        self._stopping.set()
        self._wake.set()
        reason = UnavailableError("this server process ends; connect again")
        with self._lock:
            for feed in self._feeds.values():
                for listener in feed.listeners:
                    listener.end(reason)

    def poll(self) -> None:
        """Read the new readings of all vaults once.

        Raises:
            RedisError, psycopg.Error: a store can't serve. The next poll continues.
        """
        with self._lock:
            feeds = list(self._feeds.values())
        if not feeds:
            return
        drained = self.source.drained()
        now = time.monotonic()
        due = []
        for feed in feeds:
            if feed.is_due(drained, now):
                due.append(feed)
                feed.checked_at = now
            elif now - feed.checked_at >= IDLE_SECONDS and not feed.moved(drained):
                feed.complete(drained)
                feed.checked_at = now
            if now >= feed.verify_at:
                self._verify(feed)
        self._read(due, drained)
        for feed in feeds:
            feed.offered = feed.position

    def _read(self, due: list[Feed], drained: DrainedShards) -> None:
        delay = metrics.histogram("iot_live_delay_seconds")
        for feed, rows in self.source.new_rows(due, drained) if due else ():
            with self._lock:
                before, feed.position = feed.position, rows.position
                listeners = list(feed.listeners)
            feed.deliver(rows, before, listeners)
            for received in rows.received[-1:]:
                delay.observe(max(0, drained.now - received) / 1000)

    def _feed(self, vault: OpenVault) -> Feed:
        drained = self.source.drained()
        position = self.source.now(drained)
        return Feed(
            vault=vault, position=position, reached=dict(drained.positions), checked=drained,
            offered=position, own_shard=vault.shard(self._shards),
        )  # fmt: skip

    def _check_limits(self, client: Client) -> None:
        if self._stopping.is_set():
            raise UnavailableError("this server process ends; connect again")
        total, own = sum(self._clients.values()), self._clients[client.name]
        if total >= self._max_listeners:
            raise _refusal("this server process has its maximum of live streams; try again")
        if own >= self._max_listeners_per_client:
            raise _refusal("this client has its maximum of live streams; close one of them")

    def _verify_seconds(self, vault_id: uuid.UUID) -> float:
        changing = time.monotonic() < self._changing.get(vault_id, 0.0)
        return VERIFY_CHANGED_SECONDS if changing else VERIFY_SECONDS

    def _verify(self, feed: Feed) -> None:
        """End the streams of passwords that have lost the vault: an announcement may be lost."""
        feed.verify_at = time.monotonic() + self._verify_seconds(feed.vault.vault_id)
        for record in {
            listener.record.lookup: listener.record for listener in feed.listeners
        }.values():
            try:
                standing = self._keeper.confirm(record)
                erased, has_vault = False, standing.vault_id == record.vault_id
                has_vault &= standing.lookup == record.lookup
            except VaultErasedError:
                erased, has_vault = True, False
            except (PolicyChangedError, IotError):
                continue
            if not has_vault:
                with self._lock:
                    for listener in feed.listeners:
                        if listener.record.lookup == record.lookup:
                            listener.end(_gone(erased=erased))

    def _start(self) -> None:
        self._wake.set()
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._run, name="live", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while not self._stopping.is_set():
            if not self._feeds:
                self._wake.clear()
                if not self._feeds:
                    self._wake.wait()
                continue
            pause = POLL_SECONDS
            try:
                self.poll()
            except (RedisError, *AWAY) as error:
                report(_log, "live streams get no readings", error)
                pause = AWAY_SECONDS
            except Exception:  # noqa: BLE001 - the thread must survive any defect
                _log.exception("live streams get no readings")
                pause = AWAY_SECONDS
            self._stopping.wait(pause)


def _gone(*, erased: bool) -> NotFoundError:
    if erased:
        return NotFoundError("the vault was erased", field="db_password")
    return NotFoundError("no vault has this password any more", field="db_password")


def _refusal(message: str) -> TooManyRequestsError:
    return TooManyRequestsError(message, retry_after=REFUSED_SECONDS, reason=Refusal.LIVE_STREAMS)


def _beyond(rows: LiveRows, position: LivePosition) -> LiveRows:
    """Return the readings that a listener at `position` lacks."""
    places = [
        place
        for place, reading in enumerate(rows.readings)
        if reading.id > position.id_of(reading.id % ID_STRIDE)
    ]
    readings: list[Reading] = [rows.readings[place] for place in places]
    received = [rows.received[place] for place in places]
    advanced = rows.position.advanced(position.ids)
    return replace(rows, position=advanced, readings=readings, received=received)
