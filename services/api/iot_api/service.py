"""What an API process holds: its connections, and the work on them that knows nothing of HTTP."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import gevent
import psycopg
from redis import Redis

from iot_api.ingest.intake import Intake, Remembering
from iot_api.ingest.receipts import Receipts
from iot_api.limits.guess_limit import GuessLimit
from iot_api.limits.large_requests import LargeRequests
from iot_api.query.pausable_read import ReadSlots
from iot_api.query.readings import Readings
from iot_api.vaults.cache import VaultCache
from iot_api.vaults.compaction_planner import CompactionPlanner
from iot_api.vaults.keeper import VaultKeeper
from iot_api.vaults.opening import Vaults
from iot_api.vaults.scrypt_threads import slow_key
from iot_cipher.envelope import Sealer
from iot_cipher.keyring import KeyringFile
from iot_models.names import SWEEP_JOB, KeyNames
from iot_models.settings import Settings
from iot_stores.audit import AuditLog
from iot_stores.backlog import Backlog
from iot_stores.clocks import ClockWatch, postgres_now
from iot_stores.compaction_orders import CompactionOrders
from iot_stores.held_entries import HeldEntries
from iot_stores.hot_window import HotWindow
from iot_stores.installation import Installation
from iot_stores.postgres import Connection, Pool, postgres_pool
from iot_stores.readiness import Readiness
from iot_stores.redis_client import connect_hot_window, connect_redis
from iot_stores.redis_watch import RedisWatchThread
from iot_stores.vault_records import VaultRecords
from iot_stores.watched_stores import watch_hot_window, watch_redis

CHECK_SECONDS = 2
"""How long Postgres may take to answer nothing."""
HOT_WINDOW_SECONDS = 0.5
"""How long readiness waits for the hot window, which it only mentions."""


@dataclass(frozen=True, slots=True)
class Service:
    """The parts of one API process. It has no state that another process would need."""

    settings: Settings
    pool: Pool
    redis: Sequence["Redis"]
    """Every client of a Redis."""
    vaults: Vaults
    vault_keeper: VaultKeeper
    intake: Intake
    large_requests: LargeRequests
    receipts: Receipts
    readings: Readings
    compaction: CompactionPlanner
    audit: AuditLog
    readiness: Readiness
    watcher: RedisWatchThread

    def close(self) -> None:
        """Let go of all connections."""
        self.watcher.stop()
        self.vault_keeper.close()
        self.vaults.close()
        self.compaction.close()
        self.pool.close()
        for client in self.redis:
            client.close()


def build_service(settings: Settings) -> Service:
    """Wire the parts. Connects to nothing yet: a part that is away is found out by its use.

    Raises:
        SettingsError: the keyring can't be read.
    """
    keyring = KeyringFile(Path(settings.keyring_file))
    names = KeyNames(settings.redis_key_prefix)
    redis = connect_redis(settings)
    hot_redis = connect_hot_window(settings, redis)
    hot_probe = connect_hot_window(settings, redis, timeout=HOT_WINDOW_SECONDS)
    pool = postgres_pool(settings, name="iot-api", size=settings.api_postgres_pool, check=_answers)
    lend = partial(pool.connection, timeout=1)
    installation = Installation(lend, lambda each: keyring.current().mark(each))
    watch = watch_redis(redis, installation, settings)
    hot_watch = None
    if hot_probe is not redis:
        hot_watch = watch_hot_window(hot_probe, installation, settings)
    backlog = Backlog(
        redis,
        names,
        shards=settings.shards,
        max_bytes=settings.backlog_max_bytes,
        wait_replicas=settings.redis_wait_replicas,
        wait_fsync=bool(settings.redis_wait_fsync),
    )
    compaction = CompactionPlanner(
        pool,
        CompactionOrders(redis, names),
        keyring.current,
        hot_window_seconds=settings.hot_window_seconds,
        after_seconds=settings.compaction_after_seconds,
    )
    guesses = GuessLimit(redis, names, limit=settings.guess_limit)
    keeper = VaultKeeper(
        VaultRecords(redis, names, pool),
        VaultCache(size=settings.vault_cache_size, seconds=settings.vault_cache_seconds),
        keyring.current,
        HeldEntries(redis, names),
        lambda: backlog.enqueue_once([SWEEP_JOB]),
    )
    vaults = Vaults(
        keyring.current,
        keeper,
        guesses,
        scrypt_log2_n=settings.scrypt_log2_n,
        slow_key=slow_key(),
        opened=compaction.offer,
    )
    return Service(
        settings=settings,
        pool=pool,
        redis=(redis, hot_redis, hot_probe),
        vaults=vaults,
        vault_keeper=keeper,
        intake=Intake(
            vaults,
            guesses,
            Sealer(keyring.current),
            backlog,
            admit=watch.require_safe,
            shards=settings.shards,
            remembering=Remembering(
                names, settings.idempotency_seconds, settings.idempotency_max_requests
            ),
        ),
        large_requests=LargeRequests(),
        receipts=Receipts(pool, backlog),
        readings=Readings(
            pool,
            HotWindow(
                hot_redis,
                names,
                backlog,
                seconds=settings.hot_window_seconds,
                usable=(hot_watch or watch).keeps_indexes,
            ),
            shards=settings.shards,
            postgres_now=partial(_postgres_now, pool),
            slots=ReadSlots(settings.api_postgres_pool),
        ),
        compaction=compaction,
        audit=AuditLog(keyring.current),
        readiness=Readiness(
            watch,
            backlog.try_append,
            installation,
            lend,
            hot_window=hot_watch,
            clocks=ClockWatch(redis, lend, max_seconds=settings.clock_skew_max_seconds),
        ),
        watcher=RedisWatchThread([watch] if hot_watch is None else [watch, hot_watch]),
    )


def _postgres_now(pool: Pool) -> int:
    return pool.run_idempotent(postgres_now)


def _answers(connection: Connection) -> None:
    """Check a connection before its use; one that doesn't answer is as bad as a broken one."""
    silence = psycopg.OperationalError("Postgres does not answer")
    with gevent.Timeout(CHECK_SECONDS, silence):
        Pool.check_connection(connection)
