"""What a writer process holds: its connections and the work on them."""

import logging
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from iot_cipher.envelope import Opener
from iot_cipher.writer_keys import WriterKeysFile
from iot_models.names import KeyNames
from iot_models.settings import Settings, load
from iot_stores.audit import AuditLog
from iot_stores.backlog import Backlog
from iot_stores.backlog_counters import BacklogCounters
from iot_stores.clocks import ClockWatch
from iot_stores.compaction_orders import CompactionOrders
from iot_stores.dead_letters import DeadLetters
from iot_stores.held_entries import HeldEntries
from iot_stores.hot_window import HotWindow
from iot_stores.installation import Installation
from iot_stores.postgres import Connection, abandon, check_schema, connect_postgres, url_parts
from iot_stores.readiness import Readiness
from iot_stores.redis_client import connect_hot_window, connect_redis
from iot_stores.redis_watch import RedisWatchThread
from iot_stores.watched_stores import watch_hot_window, watch_redis
from iot_writer.compaction.compactor import Compactor
from iot_writer.drain.drain import HOT_WINDOW_PAUSE_SECONDS, Drain, DrainResult
from iot_writer.maintenance.sparse_indexes import SparseIndexes

_log = logging.getLogger(__name__)


class Writer:
    """One process's part. Uses one connection to Postgres, made again after it broke."""

    def __init__(self, settings: Settings) -> None:
        """Raises `SettingsError` when a setting is wrong."""
        self.settings = settings
        url_parts(settings.postgres_url)  # what is wrong with it is told now
        self.keys = WriterKeysFile(Path(settings.keyring_file))
        self.names = KeyNames(settings.redis_key_prefix)
        self.redis = connect_redis(settings)
        self.hot_redis = connect_hot_window(settings, self.redis)
        self.installation = Installation(self._connect)
        self.watch = self.hot_watch = watch_redis(self.redis, self.installation, settings)
        if self.hot_redis is not self.redis:
            self.hot_watch = watch_hot_window(self.hot_redis, self.installation, settings)
        self.watcher = RedisWatchThread(list(dict.fromkeys((self.watch, self.hot_watch))))
        self.backlog = Backlog(
            self.redis,
            self.names,
            shards=settings.shards,
            max_bytes=settings.backlog_max_bytes,
        )
        self.audit = AuditLog(self.keys.current)
        self.drain = Drain(
            self.backlog,
            DeadLetters(self.redis, self.names, confirm_ours=self.watch.confirm_ours),
            HotWindow(
                self.hot_redis,
                self.names,
                self.backlog,
                seconds=settings.hot_window_seconds,
                usable=self.hot_watch.keeps_indexes,
            ),
            Opener(self.keys.current),
            self.audit,
            shards=settings.shards,
            hot_window_pause=0.0 if self.hot_redis is self.redis else HOT_WINDOW_PAUSE_SECONDS,
        )
        self.counters = BacklogCounters(self.redis, self.names)
        self.held = HeldEntries(self.redis, self.names)
        self.clocks = ClockWatch(
            self.redis, self._connect, max_seconds=settings.clock_skew_max_seconds
        )
        self.compaction_orders = CompactionOrders(self.redis, self.names)
        self.compaction = Compactor(self.compaction_orders, self.keys.current)
        self.sparse_indexes = SparseIndexes(self._connect)
        self._connection: Connection | None = None

    def postgres(self) -> Connection:
        """A connection that works, as far as can be known without asking.

        Raises:
            AWAY: Postgres can't serve.
            SettingsError: the database's schema is another version's.
        """
        if self._connection is None or self._connection.closed or self._connection.broken:
            connection = self._connect()
            try:
                check_schema(connection)
                if self.installation.refresh(connection):
                    self.watch.invalidate()
            except BaseException:
                connection.close()
                raise
            self._connection = connection
        return self._connection

    def drop_postgres(self) -> None:
        """Close the connection after an error that told of a state of Postgres.

        The server may have become a standby, while the name in the URL leads to the new primary.
        """
        connection, self._connection = self._connection, None
        if connection is not None:
            abandon(connection)

    def readiness(self) -> Readiness:
        """Whether this process can drain; asks over connections that the drain doesn't use."""
        return Readiness(
            self.watch,
            self.backlog.try_remove,
            self.installation,
            self._connect,
            ask_once=True,
            clocks=self.clocks,
        )

    def drain_shards(self, shards: Sequence[int]) -> DrainResult:
        """Drain shards of a Redis that is ours.

        Raises:
            UnfitRedisError: it is another installation's.
            psycopg.Error, RedisError: a part is away; what was not stored waits on.
        """
        connection = self.postgres()
        self.watch.require_ours()
        return self.drain.run(connection, shards)

    def _connect(self) -> Connection:
        return connect_postgres(self.settings, name="iot-writer")

    def close(self) -> None:
        """Let go of all connections."""
        if self._connection is not None:
            self._connection.close()
        self.redis.close()
        self.hot_redis.close()


@cache
def current() -> Writer:
    """The writer of this process, made from the environment at the first call."""
    return Writer(load())
