"""The parts of one writer process: its stores, and the work that its jobs do on them."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from pathlib import Path

from psycopg.pq import TransactionStatus

from iot_cipher.encryption import Opener
from iot_cipher.writer_keys import WriterKeysFile
from iot_models import metrics, tracing
from iot_models.settings import Settings, load
from iot_stores.audit import AuditLog
from iot_stores.audit_chain import AuditChain
from iot_stores.dead_letter_orders import DeadLetterOrders
from iot_stores.heartbeats import HeartbeatSender
from iot_stores.loaded_keys import LoadedKeysReporter
from iot_stores.postgres import Connection, abandon, check_schema, connect_postgres, url_parts
from iot_stores.readiness import Readiness
from iot_stores.stores import Stores
from iot_writer.compaction.compactor import Compactor
from iot_writer.drain.drain import HOT_WINDOW_PAUSE_SECONDS, Drain, DrainOutcome, DrainResult
from iot_writer.drain.stored_log import log_stored
from iot_writer.drain.stored_trace import trace_stored
from iot_writer.maintenance import sweep
from iot_writer.maintenance.audit_chainer import AuditChainer
from iot_writer.maintenance.bloated_indexes import BloatedIndexes
from iot_writer.maintenance.letter_orders import LetterOrders
from iot_writer.maintenance.outdated_covers import OutdatedCovers
from iot_writer.maintenance.vault_deletion import VaultDeletion

_log = logging.getLogger(__name__)


class Writer:
    """The parts of one process.

    Jobs share one connection to Postgres, which is opened again after an error.
    """

    def __init__(self, settings: Settings) -> None:
        """Raises `SettingsError` if a setting is wrong."""
        self.settings = settings
        url_parts(settings.postgres_url)  # fail at startup when the URL is invalid
        self.keys = WriterKeysFile(Path(settings.keyring_file))
        self._connect = partial(connect_postgres, settings, name="iot-writer")
        self.stores = stores = Stores(settings, self._connect)
        self.names = stores.names
        self.redis, self.hot_redis = stores.redis, stores.hot_redis
        self.watch, self.hot_watch, self.watcher = stores.watch, stores.hot_watch, stores.watcher
        self._drained_at: dict[int, float] = {}
        self.watcher.after_checks += self._reports()
        self.outdated_covers = OutdatedCovers(
            stores.hot_window, self._connect, shards=settings.shards
        )
        self.watcher.after_checks.append(self.outdated_covers.replace)
        self.backlog, self.held, self.clocks = stores.backlog, stores.held_entries, stores.clocks
        self.audit = AuditLog(self.keys.current)
        self.audit_chainer = AuditChainer(AuditChain(self.keys.current), stores.audit_head)
        opener = Opener(self.keys.current)
        self.vault_deletion = VaultDeletion(stores.hot_window, stores.dead_letters, opener)
        self.letter_orders = LetterOrders(
            DeadLetterOrders(self.redis, self.names, self.keys.current),
            stores.dead_letters,
            self.backlog,
            opener,
            self.audit,
            self.watch.require_ownership,
        )
        self.drain = Drain(
            self.backlog,
            stores.dead_letters,
            stores.hot_window,
            opener,
            self.audit,
            shards=settings.shards,
            hot_window_pause=0.0 if self.hot_redis is self.redis else HOT_WINDOW_PAUSE_SECONDS,
        )
        if settings.log_requests:
            self.drain.on_committed.append(log_stored)
        if tracing.is_on():
            self.drain.on_stored.append(trace_stored)
        self.compaction_orders = stores.compaction_orders
        self.compaction = Compactor(self.compaction_orders, self.keys.current)
        self.bloated_indexes = BloatedIndexes(self._connect)
        self._connection: Connection | None = None

    def _reports(self) -> Iterator[Callable[[], None]]:
        """Yield two functions: one reports the loaded keys to Redis, one sends a heartbeat."""
        reported = self.redis, self.names, "writer", self.keys.current
        require_ownership, drained = self.watch.require_ownership, self._seconds_since_drains
        yield LoadedKeysReporter(*reported, require_ownership=require_ownership).report
        yield HeartbeatSender(
            *reported, require_ownership=require_ownership, drained=drained
        ).report

    def _seconds_since_drains(self) -> dict[int, float]:
        now = time.monotonic()
        return {shard: now - at for shard, at in dict(self._drained_at).items()}

    def postgres(self) -> Connection:
        """Return the connection to Postgres.

        It is opened at the first call, and again if it is known to be closed or broken. The
        connection is not tested: if it broke since its last use, the next statement fails.

        Raises:
            POSTGRES_UNAVAILABLE: Postgres can't serve.
            SettingsError: the database's schema belongs to another version.
        """
        if self._connection is None or self._connection.closed or self._connection.broken:
            connection = self._connect()
            try:
                metrics.gauge("iot_schema_revision").set(check_schema(connection))
                if self.stores.installation.refresh(connection):
                    self.watch.invalidate()
            except BaseException:
                connection.close()
                raise
            self._connection = connection
        return self._connection

    def drop_postgres(self) -> None:
        """Close the connection, after an error that says that Postgres can't serve.

        After a failover, the connected server may be a standby. The next connection resolves the
        name in the URL again and reaches the new primary.
        """
        connection, self._connection = self._connection, None
        if connection is not None:
            abandon(connection)

    def waits_for_postgres(self) -> bool:
        """Return whether an interrupted job was connecting to Postgres or executing a statement."""
        connection = self._connection
        return connection is None or connection.info.transaction_status in {
            TransactionStatus.ACTIVE,
            TransactionStatus.UNKNOWN,  # the connection is closed or broken
        }

    def readiness(self) -> Readiness:
        """Return the readiness check.

        It opens its own connections, because a drain may use the writer's connection at the same
        time.
        """
        return Readiness(
            self.watch,
            self.backlog.try_remove,
            self.stores.installation,
            self._connect,
            ask_once=True,
            clocks=self.clocks,
        )

    def drain_shards(self, shards: Sequence[int]) -> DrainResult:
        """Drain shards once. Return how the drain ended.

        Raises:
            UnfitRedisError: Redis belongs to another installation, or its owner is unknown.
            psycopg.Error, RedisError: a store is away. Entries that are not stored stay in the
                backlog.
        """
        connection = self.postgres()
        self.watch.require_ownership()
        result = self.drain.run(connection, shards)
        for shard, outcome in result.outcomes.items():
            if outcome not in {DrainOutcome.BUSY, DrainOutcome.EMPTY}:
                self._drained_at[shard] = time.monotonic()
                drained = metrics.gauge("iot_shard_drained_timestamp_seconds")
                drained.labels(str(shard)).set_to_current_time()
        return result

    def repair_redis(self) -> None:
        """Repair what another program has damaged in Redis (`sweep.repair`)."""
        sweep.repair(self.stores.backlog_counters, self.stores.mistyped_keys, self.backlog)

    def close(self) -> None:
        """Close all connections."""
        if self._connection is not None:
            self._connection.close()
        self.stores.close()


@cache
def current() -> Writer:
    """Return the writer of this process, built from the environment at the first call."""
    return Writer(load())
