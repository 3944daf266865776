"""What a writer process holds: its connections and the work on them."""

import logging
from functools import cache, partial
from pathlib import Path

from iot_cipher.envelope import Opener
from iot_cipher.writer_keys import WriterKeysFile
from iot_models.names import KeyNames
from iot_models.settings import Settings, load
from iot_stores.audit import AuditLog
from iot_stores.backlog import Backlog
from iot_stores.clocks import ClockWatch
from iot_stores.compaction_orders import CompactionOrders
from iot_stores.dead_letters import DeadLetters
from iot_stores.hot_window import HotWindow
from iot_stores.postgres import Connection, check_schema, connect_postgres, url_parts
from iot_stores.readiness import Readiness
from iot_stores.redis_client import connect_hot_window, connect_redis

from .compaction import Compaction
from .drain import HOT_WINDOW_PAUSE_SECONDS, Drain
from .sparse_indexes import SparseIndexes

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
        self.backlog = Backlog(
            self.redis,
            self.names,
            shards=settings.shards,
            max_bytes=settings.backlog_max_bytes,
        )
        self.audit = AuditLog(self.keys.current)
        self.drain = Drain(
            self.backlog,
            DeadLetters(self.redis, self.names),
            HotWindow(
                self.hot_redis, self.names, self.backlog, seconds=settings.hot_window_seconds
            ),
            Opener(self.keys.current),
            self.audit,
            shards=settings.shards,
            hot_window_pause=0.0 if self.hot_redis is self.redis else HOT_WINDOW_PAUSE_SECONDS,
        )
        self.clocks = ClockWatch(
            self.redis,
            partial(connect_postgres, settings, name="iot-writer"),
            most_seconds=settings.clock_skew_max_seconds,
        )
        self.compaction_orders = CompactionOrders(self.redis, self.names)
        self.compaction = Compaction(self.compaction_orders, self.keys.current)
        self.sparse_indexes = SparseIndexes(lambda: connect_postgres(settings, name="iot-writer"))
        self._connection: Connection | None = None

    def postgres(self) -> Connection:
        """A connection that works, as far as can be known without asking.

        Raises:
            psycopg.OperationalError: Postgres is away.
            SettingsError: the database's schema is another version's.
        """
        if self._connection is None or self._connection.closed or self._connection.broken:
            connection = connect_postgres(self.settings, name="iot-writer")
            try:
                check_schema(connection)
            except BaseException:
                connection.close()
                raise
            self._connection = connection
        return self._connection

    def readiness(self) -> Readiness:
        """Whether this process can drain; asks over connections that the drain doesn't use."""
        return Readiness(
            self.redis,
            partial(connect_postgres, self.settings, name="iot-writer"),
            ask_once=True,
            clocks=self.clocks,
        )

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
