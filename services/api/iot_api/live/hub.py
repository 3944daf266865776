"""All live streams of an API process, within their limits."""

import logging
import threading
import time
import uuid
from collections.abc import Callable

from iot_api.limits.clients import Client
from iot_api.vaults.cache import CachedVault
from iot_api.vaults.restorer import VaultRestorer
from iot_api.vaults.unsettled_changes import UnsettledChanges
from iot_cipher.encryption import OpenVault
from iot_models import metrics
from iot_models.errors import (
    IotError,
    NotFoundError,
    Refusal,
    TooManyRequestsError,
    UnavailableError,
)
from iot_stores.password_changes import ERASED, ERASING
from iot_stores.vault_records import PolicyChangedError, VaultErasedError

from .feed import Feed, Joined
from .listener import Listener, WaitingBytes
from .listener_limits import ListenerLimits
from .poller import LivePoller
from .position import LivePosition
from .source import LiveSource

VERIFY_SECONDS = 300.0
"""While a vault has live streams, its record is compared with Postgres at this interval."""
VERIFY_CHANGED_SECONDS = 2.0
"""The interval used in place of `VERIFY_SECONDS` while an announced change of the vault's password
may still be pending."""
CHANGING_SECONDS = 3.0
"""For this long after a change of a password was announced, no stream is opened with the old
password. Most changes are made within this time. If a change takes longer, streams may be opened
with the old password before the change is made. The next comparison after the change
(`VERIFY_CHANGED_SECONDS`) ends these streams."""
REFUSED_SECONDS = 5
"""`Retry-After` of the answer that refuses a stream because of a limit."""

_log = logging.getLogger(__name__)


class LiveHub:
    """The live streams of a process. All streams of a vault share its feed."""

    def __init__(
        self,
        source: LiveSource,
        restorer: VaultRestorer,
        catch_up: Callable[[], None],
        *,
        shards: int,
        max_listeners: int,
        max_listeners_per_client: int,
    ) -> None:
        """`catch_up` is `ChangeFollower.catch_up`. It is called before readings are sent."""
        self.source = source
        self._restorer = restorer
        self._shards = shards
        self._limits = ListenerLimits(max_listeners, max_listeners_per_client)
        self._feeds: dict[uuid.UUID, Feed] = {}
        self._changes = UnsettledChanges()
        self._lock = threading.RLock()
        self._stopping = False
        self.catch_up = catch_up
        self.poller = LivePoller(source, self.feeds, self._lock, self.verify, catch_up)
        self._waiting = WaitingBytes()
        self._gauge = metrics.gauge("iot_live_listeners")
        self._gauge.set(0)

    def open(
        self,
        cached: CachedVault,
        client: Client,
        position: LivePosition | None,
        still_allowed: Callable[[], object],
        is_gone: Callable[[], bool] = lambda: False,
    ) -> Joined:
        """Add a listener to the feed of a vault, for the readings behind `position`.

        If `position` is None, the listener gets the readings that are stored from now on. The feed
        offers only the readings behind `Joined.until`; the caller reads the earlier readings.
        `still_allowed` and `is_gone` are as in `Listener`.

        Raises:
            TooManyRequestsError: the process or the client has its maximum of listeners.
            UnavailableError: this process shuts down, the password is being changed, or the feed of
                the vault ended during this call, because its last listener left.
            RedisError: the backlog's Redis is away.
        """
        self._check_limits(client)
        vault_id = cached.record.vault_id
        change = self._changes.outdating(cached.record)
        if change is not None and time.monotonic() < change.noted_at + CHANGING_SECONDS:
            raise UnavailableError("the password is being changed; try again")
        new = None if vault_id in self._feeds else self._feed(cached.vault)
        with self._lock:
            self._check_limits(client)
            feed = self._feeds.get(vault_id, new)
            if feed is None:  # its last listener has left meanwhile
                raise UnavailableError("the live stream is being restarted; connect again")
            self._feeds[vault_id] = feed
            listener = Listener(
                client, cached.record, position or feed.position, still_allowed, is_gone,
                self._waiting,
            )  # fmt: skip
            feed.listeners.append(listener)
            verify_at = time.monotonic() + self._verify_seconds(vault_id)
            feed.verify_at = min(feed.verify_at, verify_at)
            self._limits.add(client)
            until = feed.position
            self.poller.start()
        self._gauge.inc()
        return Joined(listener, feed, until)

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
            self._limits.remove(listener.client)
        listener.end(UnavailableError("the client is gone"))  # a delivery may still offer events
        self._gauge.dec()

    def note_change(self, vault_id: uuid.UUID, lookup: bytes) -> None:
        """End the streams of a vault, because its password is being changed or the vault erased.

        `lookup` is the lookup of the new password: streams that were opened with it continue. For
        an erasure, `lookup` is `ERASING` or `ERASED`, and all streams end.
        """
        with self._lock:
            self._changes.note(vault_id, lookup)
            feed = self._feeds.get(vault_id)
            for listener in [] if feed is None else feed.listeners:
                if listener.record.lookup != lookup:
                    listener.end(_gone(erased=lookup in {ERASING, ERASED}))

    def verify_soon(self) -> None:
        """Make the next poll compare the vault records of all streams with Postgres.

        Called when this process may have missed announced changes of passwords or erasures.
        """
        for feed in self.feeds():
            feed.verify_at = 0.0

    def stop(self) -> None:
        """End all streams and refuse new ones, because the process shuts down."""
        self._stopping = True
        self.poller.stop()
        reason = UnavailableError("this server process shuts down; connect again")
        with self._lock:
            for feed in self._feeds.values():
                for listener in feed.listeners:
                    listener.end(reason)

    def feeds(self) -> list[Feed]:
        """Return all feeds."""
        with self._lock:
            return list(self._feeds.values())

    def _feed(self, vault: OpenVault) -> Feed:
        drained = self.source.drained()
        position = self.source.now(drained)
        return Feed(
            vault=vault, position=position, checked=drained,
            offered=position, own_shard=vault.shard(self._shards),
        )  # fmt: skip

    def _check_limits(self, client: Client) -> None:
        if self._stopping:
            raise UnavailableError("this server process shuts down; connect again")
        problem = self._limits.exceeded(client)
        if problem is not None:
            self._drop_gone()
            problem = self._limits.exceeded(client)
        if problem is not None:
            raise TooManyRequestsError(
                problem, retry_after=REFUSED_SECONDS, reason=Refusal.LIVE_STREAMS
            )

    def _drop_gone(self) -> None:
        """Remove the listeners whose clients are gone.

        Otherwise, they would stay until the next event.
        """
        listeners = [listener for feed in self.feeds() for listener in feed.listeners]
        for listener in listeners:
            if listener.is_gone():
                self.close(listener)

    def _verify_seconds(self, vault_id: uuid.UUID) -> float:
        return VERIFY_SECONDS if self._changes.of(vault_id) is None else VERIFY_CHANGED_SECONDS

    def verify(self, feed: Feed) -> None:
        """Compare the vault records of a feed's streams with Postgres.

        End the streams whose vault was erased or whose record got a new lookup, even if the change
        was not announced.
        """
        feed.verify_at = time.monotonic() + self._verify_seconds(feed.vault.vault_id)
        records = {listener.record.lookup: listener.record for listener in feed.listeners}
        for record in records.values():
            try:
                standing = self._restorer.confirm(record)
            except VaultErasedError:
                self._end(feed, record.lookup, _gone(erased=True))
            except (PolicyChangedError, IotError):
                continue
            else:
                if (standing.vault_id, standing.lookup) != (record.vault_id, record.lookup):
                    # The password may be the same: a raised scrypt cost changes its lookup.
                    reason = UnavailableError("the vault's record was changed; connect again")
                    self._end(feed, record.lookup, reason)
        if self._restorer.is_away:  # nothing was compared
            feed.verify_at = time.monotonic() + VERIFY_CHANGED_SECONDS

    def _end(self, feed: Feed, lookup: bytes, reason: IotError) -> None:
        with self._lock:
            for listener in feed.listeners:
                if listener.record.lookup == lookup:
                    listener.end(reason)


def _gone(*, erased: bool) -> NotFoundError:
    if erased:
        return NotFoundError("the vault was erased", field="db_password")
    return NotFoundError("no vault has this password any more", field="db_password")
