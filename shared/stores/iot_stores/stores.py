"""The stores of one process, opened from its settings. API, writer and commands use it."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import cached_property

from redis import Redis

from iot_models.names import KeyNames
from iot_models.settings import Settings

from .audit_head import PublishedAuditHead
from .backlog import Backlog
from .backlog_counters import BacklogCounters
from .clocks import ClockWatch
from .compaction_orders import CompactionOrders
from .confirmation import Confirmation
from .dead_letters import DeadLetters
from .held_entries import HeldEntries
from .hot_window import HotWindow
from .installation import Installation, KeyringMark
from .mistyped_keys import MistypedKeys
from .postgres import Connection
from .redis_client import connect_hot_window, connect_redis
from .redis_watch import RedisRequirements, RedisWatch, RedisWatchThread
from .wakeups import ThreadWakeup, Wakeup


class Stores:
    """The stores that a process uses. Each store is opened at its first use.

    Opening a store sends nothing: the first command connects.

    Every property that needs a Redis client raises `SettingsError` if the URL of this Redis is
    invalid.
    """

    def __init__(
        self,
        settings: Settings,
        connect: Callable[[], AbstractContextManager[Connection]],
        *,
        keyring_mark: KeyringMark | None = None,
        marks_keyring: bool = True,
        appends_wait: bool = False,
        wakeup: Callable[[], Wakeup] = ThreadWakeup,
        hot_window_watch_seconds: float | None = None,
    ) -> None:
        """`connect` opens a connection to Postgres, or raises one of `POSTGRES_UNAVAILABLE`.

        `keyring_mark`, `marks_keyring`: see `Installation`.

        `appends_wait`: whether appends wait for the replicas and disks that the settings require.
        The API sets this, because it acknowledges readings. `wakeup` makes the object with which a
        thread or greenlet waits while another one sends its append.

        `hot_window_watch_seconds`: timeout of the checks of the hot window's own Redis; None for
        the timeout that other Redis commands have.
        """
        self.settings = settings
        self.names = KeyNames(settings.redis_key_prefix)
        self.connect = connect
        self._keyring_mark = keyring_mark
        self._marks_keyring = marks_keyring
        self._appends_wait = appends_wait
        self._wakeup = wakeup
        self._watch_seconds = hot_window_watch_seconds
        self._clients: list[Redis] = []

    @cached_property
    def redis(self) -> "Redis":
        """The client of the backlog's Redis."""
        return self._closed_later(connect_redis(self.settings))

    @cached_property
    def hot_redis(self) -> "Redis":
        """The client of the hot window's Redis: `redis` unless the hot window has its own."""
        return self._closed_later(connect_hot_window(self.settings, self.redis))

    @cached_property
    def installation(self) -> Installation:
        return Installation(self.connect, self._keyring_mark, marks_keyring=self._marks_keyring)

    @cached_property
    def watch(self) -> RedisWatch:
        """The watch over the backlog's Redis."""
        return RedisWatch(
            self.redis,
            self.names,
            self.installation,
            RedisRequirements(
                durable=not self.settings.redis_allow_no_aof,
                may_evict=bool(self.settings.redis_allow_eviction),
            ),
        )

    @cached_property
    def hot_watch(self) -> RedisWatch:
        """The watch over the hot window's Redis. Without a separate Redis for the hot window, this
        is `self.watch`.

        The hot window's own Redis may lose all its data: reads then use Postgres. But it must not
        evict single keys: without the list of a vault's segments, reads would miss these segments.
        """
        client = self.hot_redis
        if client is self.redis:
            return self.watch
        if self._watch_seconds is not None:
            client = self._closed_later(
                connect_hot_window(self.settings, self.redis, timeout=self._watch_seconds)
            )
        requirements = RedisRequirements(
            "the hot window's Redis", "IOT_HOT_WINDOW_REDIS_URL", durable=False
        )
        return RedisWatch(client, self.names, self.installation, requirements)

    @cached_property
    def watcher(self) -> RedisWatchThread:
        """The thread that keeps the watches up to date."""
        return RedisWatchThread(list(dict.fromkeys((self.watch, self.hot_watch))))

    @cached_property
    def clocks(self) -> ClockWatch:
        """Compares this process's clock with the clocks of Redis and Postgres."""
        return ClockWatch(
            self.redis, self.connect, max_seconds=self.settings.clock_skew_max_seconds
        )

    @cached_property
    def backlog(self) -> Backlog:
        return Backlog(
            self.redis,
            self.names,
            shards=self.settings.shards,
            max_bytes=self.settings.backlog_max_bytes,
            confirmation=Confirmation(
                self.settings.redis_wait_replicas,
                bool(self.settings.redis_wait_fsync),
                of_appends=self._appends_wait,
            ),
            wakeup=self._wakeup,
        )

    @cached_property
    def backlog_counters(self) -> BacklogCounters:
        """The counters of the backlog, which a sweep repairs."""
        return BacklogCounters(self.redis, self.names)

    @cached_property
    def mistyped_keys(self) -> MistypedKeys:
        """Deletes keys that hold a value of the wrong type. Writers use it."""
        return MistypedKeys(self.redis, self.names)

    @cached_property
    def hot_window(self) -> HotWindow:
        return HotWindow(
            self.hot_redis,
            self.names,
            self.backlog,
            seconds=self.settings.hot_window_seconds,
            usable=self.hot_watch.keeps_indexes,
        )

    @cached_property
    def dead_letters(self) -> DeadLetters:
        return DeadLetters(self.redis, self.names, confirm_ownership=self.watch.confirm_ownership)

    @cached_property
    def held_entries(self) -> HeldEntries:
        return HeldEntries(self.redis, self.names)

    @cached_property
    def compaction_orders(self) -> CompactionOrders:
        """The compaction orders of API processes, which a writer carries out."""
        return CompactionOrders(self.redis, self.names)

    @cached_property
    def audit_head(self) -> PublishedAuditHead:
        """The published head of the audit log's hash chain."""
        return PublishedAuditHead(self.redis, self.names)

    def close(self) -> None:
        """Close the Redis clients. The caller closes its connections to Postgres."""
        for client in self._clients:
            client.close()

    def _closed_later(self, client: "Redis") -> "Redis":
        if client not in self._clients:
            self._clients.append(client)
        return client
