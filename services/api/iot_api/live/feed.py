"""The new readings of one vault, for all of its listeners in a process."""

import math
import time
from dataclasses import dataclass, field

from iot_stores.backlog import DrainedShards

from .events import events_of
from .listener import Listener
from .live_rows import LiveRows
from .position import LivePosition
from .source import Watched

OTHER_SHARDS_SECONDS = 1.0
"""Shortest time between two checks of a vault if only other shards than its own were drained.
Another shard may contain readings of the vault while IOT_SHARDS is being changed."""
POSTGRES_SECONDS = 0.5
"""Shortest time between two reads of a vault in Postgres."""


@dataclass(slots=True, eq=False, kw_only=True)
class Feed(Watched):
    """The new readings of one vault, for all of its listeners in this process."""

    offered: LivePosition
    """All readings up to this position were offered to the listeners."""
    own_shard: int
    listeners: list[Listener] = field(default_factory=list)
    checked_at: float = 0.0
    busy: bool = False
    """Whether the vault is being read from Postgres."""
    used_postgres: bool = False
    verify_at: float = math.inf
    """Time of the next comparison of the vault's record with Postgres, by `time.monotonic`."""

    def is_due(self, drained: DrainedShards, now: float) -> bool:
        """Return whether to look for new readings now.

        True if a shard was drained since the last check. There are two exceptions. If the last
        check read Postgres, wait `POSTGRES_SECONDS` after it. If the vault's own shard was not
        drained, wait `OTHER_SHARDS_SECONDS` after the last check.
        """
        moved = self.moved(drained)
        age = now - self.checked_at
        if not moved or (self.used_postgres and age < POSTGRES_SECONDS):
            return False
        return self.own_shard in moved or age >= OTHER_SHARDS_SECONDS

    def deliver(self, rows: LiveRows, before: LivePosition, listeners: list[Listener]) -> None:
        """Offer `rows`, the readings behind the position `before`, to `listeners` as events.

        Each event is encoded once for all listeners. Only a listener that joined the feed at a
        later position than `before` gets events of its own, without the readings that it already
        has.
        """
        level = [each for each in listeners if before.includes(each.joined_at)]
        vault_id = self.vault.vault_id.bytes
        if level:
            for event in events_of(rows, before, vault_id):
                for listener in level:
                    listener.offer(event)
                time.sleep(0)  # let the listeners send: they keep a few events only
        for listener in set(listeners).difference(level):
            own = rows.behind(listener.joined_at)
            for event in events_of(own, before.advanced(listener.joined_at.ids), vault_id):
                listener.offer(event)


@dataclass(frozen=True, slots=True)
class Joined:
    """A listener, and where it joined the feed of its vault."""

    listener: Listener
    feed: Feed
    until: LivePosition
    """The caller of `LiveHub.open` reads the readings up to this position. The feed offers all
    later readings."""

    def position_now(self, position: LivePosition) -> LivePosition:
        """Return the position to send with the event `heartbeat`.

        `position` is the position behind the last sent event. Return it unchanged if an event waits
        for the client. Otherwise the client has every reading up to `Feed.offered`, so return
        `position` advanced to `offered`.
        """
        offered = self.feed.offered
        if not self.listener.is_idle:
            return position
        return position.advanced(offered.ids, offered.since)
