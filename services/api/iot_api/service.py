"""The parts of an API process, wired: connections to the stores, and the logic below HTTP."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import gevent
from gevent import monkey

from iot_api.audit.access_audit import AccessAudit
from iot_api.audit.events import AuditEvents
from iot_api.ingest.earlier_attempts import EarlierAttempts
from iot_api.ingest.idempotency import IdempotencyPolicy
from iot_api.ingest.intake import GreenletWakeup, Intake
from iot_api.ingest.put_openings import PutOpenings
from iot_api.ingest.receipts import Receipts
from iot_api.limits.guess_limit import GuessLimit
from iot_api.limits.large_requests import LargeRequests
from iot_api.limits.memory_budget import budget_bytes
from iot_api.limits.rate_limit import RateLimit, RateSettler
from iot_api.live.hub import LiveHub
from iot_api.live.source import LiveSource
from iot_api.query.hot_readings import Readings
from iot_api.query.pausable_read import ReadSlots
from iot_api.status.letter_actions import LetterActions
from iot_api.status.status import Status
from iot_api.vaults.cache import VaultCache
from iot_api.vaults.change_follower import ChangeFollower
from iot_api.vaults.compaction_planner import CompactionPlanner
from iot_api.vaults.opening import Vaults
from iot_api.vaults.password_changer import PasswordChanger
from iot_api.vaults.range_eraser import RangeEraser
from iot_api.vaults.restorer import VaultRestorer
from iot_api.vaults.scrypt_threads import slow_key
from iot_api.vaults.vault_eraser import VaultEraser
from iot_cipher.encryption import Opener, Sealer
from iot_cipher.keyring import KeyringFile
from iot_models.names import SWEEP_JOB
from iot_models.settings import DEFAULT_SCRYPT_LOG2_N, Settings
from iot_stores.audit import AuditLog
from iot_stores.clocks import postgres_now
from iot_stores.dead_letter_orders import DeadLetterOrders
from iot_stores.erasures import Erasures
from iot_stores.heartbeats import HeartbeatSender
from iot_stores.loaded_keys import LoadedKeysReporter
from iot_stores.password_changes import PasswordChanges
from iot_stores.postgres import NoAnswerError, Pool, postgres_pool
from iot_stores.readiness import Readiness
from iot_stores.redis_watch import RedisWatchThread
from iot_stores.stores import Stores
from iot_stores.vault_records import VaultRecords
from iot_stores.wakeups import ThreadWakeup

CHECK_SECONDS = 2
"""Timeout of the health check of a pooled connection to Postgres."""
CONNECT_SECONDS = 1
"""Longest wait for a connection to Postgres in checks of readiness, clocks and marks."""
HOT_WINDOW_SECONDS = 0.5
"""Timeout of the readiness check of the hot window's Redis. It is short, because the process is
ready without this Redis: `/readyz` only reports it."""


@dataclass(frozen=True, slots=True)
class Service:
    """The parts of one API process. Processes share no state in memory."""

    settings: Settings
    stores: Stores
    pool: Pool
    vaults: Vaults
    vault_restorer: VaultRestorer
    password_changer: PasswordChanger
    vault_eraser: VaultEraser
    range_eraser: RangeEraser
    change_follower: ChangeFollower
    rates: RateLimit | None
    """None if no rate limit is set."""
    rate_settler: RateSettler | None
    intake: Intake
    large_requests: LargeRequests
    receipts: Receipts
    readings: Readings
    live: LiveHub
    compaction: CompactionPlanner
    audit: AuditLog
    audit_events: AuditEvents
    access_audit: AccessAudit
    readiness: Readiness
    status: Status
    letter_actions: LetterActions
    watcher: RedisWatchThread

    def close(self) -> None:
        """Close all connections and end all threads."""
        self.live.stop()
        self.watcher.stop()
        if self.rate_settler is not None:
            self.rate_settler.stop()
        self.change_follower.stop()
        self.access_audit.stop()
        self.vault_restorer.close()
        self.vaults.close()
        self.compaction.close()
        self.pool.close()
        self.stores.close()


def build_service(settings: Settings) -> Service:
    """Wire the parts. Nothing connects yet: a store connects at its first use.

    Raises:
        SettingsError: the keyring can't be read.
    """
    keyring = KeyringFile(Path(settings.keyring_file))
    pool = postgres_pool(
        settings,
        name="iot-api",
        size=settings.api_postgres_pool,
        check_timeout=partial(gevent.Timeout, CHECK_SECONDS, NoAnswerError),
    )
    stores = _stores(settings, keyring, pool)
    redis, names, backlog, watch = stores.redis, stores.names, stores.backlog, stores.watch
    sweep = partial(backlog.enqueue_once, [SWEEP_JOB])
    audit = AuditLog(keyring.current)
    audit_events = AuditEvents(audit, pool)
    rates = _rate_limit(settings, stores)
    compaction = _compaction_planner(settings, keyring, pool, stores)

    # A request needs all its vaults open at the same time, to open them and to find its earlier
    # attempt.
    size = max(settings.vault_cache_size, settings.max_passwords)
    cache = VaultCache(size=size, seconds=settings.vault_cache_seconds)
    watch.on_new_server = cache.forget_redis
    changes = PasswordChanges(redis, names)
    records = VaultRecords(redis, names, pool, audit, audits_new_vaults=bool(settings.audit_vaults))
    erasures = Erasures(redis, names, pool, changes, audit)
    restorer = VaultRestorer(
        records, cache, keyring.current, stores.held_entries, sweep, erasures.clean_redis
    )
    stores.watcher.after_checks += _reports(stores, keyring, restorer)
    stores.watcher.after_checks.append(backlog.release_idle_connection)
    follower = ChangeFollower(changes, restorer)
    live = _live_hub(settings, pool, stores, follower)
    follower.on_change, follower.on_gap = live.note_change, live.verify_soon
    vaults = Vaults(
        keyring.current,
        restorer,
        _guess_limit(settings, stores),
        scrypt_log2_n=settings.scrypt_log2_n,
        slow_key=slow_key(),
        on_opened=compaction.offer,
        catch_up=follower.catch_up,
    )

    readiness = _readiness(stores)
    letter_orders = DeadLetterOrders(redis, names, keyring.current)
    return Service(
        settings=settings,
        stores=stores,
        pool=pool,
        vaults=vaults,
        vault_restorer=restorer,
        password_changer=PasswordChanger(
            vaults, records, changes, keyring.current, watch.require_safe
        ),
        vault_eraser=VaultEraser(vaults, records, erasures, watch.require_safe, sweep),
        range_eraser=RangeEraser(
            vaults,
            backlog,
            stores.held_entries,
            stores.hot_window,
            pool,
            audit,
            watch.require_safe,
        ),
        change_follower=follower,
        rates=rates if rates.is_on else None,
        rate_settler=RateSettler(rates) if rates.is_on else None,
        intake=_intake(settings, keyring, stores, vaults),
        large_requests=LargeRequests(budget_bytes(settings)),
        receipts=Receipts(pool, backlog),
        readings=_readings(settings, pool, stores),
        live=live,
        compaction=compaction,
        audit=audit,
        audit_events=audit_events,
        access_audit=AccessAudit(audit_events),
        readiness=readiness,
        status=Status(stores, pool, readiness, letter_orders),
        letter_actions=LetterActions(stores, letter_orders, Opener(keyring.current), pool, sweep),
        watcher=stores.watcher,
    )


def _stores(settings: Settings, keyring: KeyringFile, pool: Pool) -> Stores:
    return Stores(
        settings,
        partial(pool.connection, timeout=CONNECT_SECONDS),
        keyring_mark=lambda installation: keyring.current().mark(installation),
        appends_wait=True,
        wakeup=GreenletWakeup if monkey.is_module_patched("threading") else ThreadWakeup,
        hot_window_watch_seconds=HOT_WINDOW_SECONDS,
    )


def _compaction_planner(
    settings: Settings, keyring: KeyringFile, pool: Pool, stores: Stores
) -> CompactionPlanner:
    return CompactionPlanner(
        pool,
        stores.compaction_orders,
        keyring.current,
        hot_window_seconds=settings.hot_window_seconds,
        after_seconds=settings.compaction_after_seconds,
    )


def _guess_limit(settings: Settings, stores: Stores) -> GuessLimit:
    return GuessLimit(
        stores.redis,
        stores.names,
        limit=settings.guess_limit,
        new_vault_limit=settings.new_vault_limit,
    )


def _rate_limit(settings: Settings, stores: Stores) -> RateLimit:
    return RateLimit(
        stores.redis,
        stores.names,
        per_address=settings.rate_limit_address,
        per_token=settings.rate_limit_token,
    )


def _live_hub(settings: Settings, pool: Pool, stores: Stores, follower: ChangeFollower) -> LiveHub:
    return LiveHub(
        LiveSource(pool, stores.backlog, stores.hot_window),
        follower.restorer,
        follower.catch_up,
        shards=settings.shards,
        max_listeners=settings.live_listeners,
        max_listeners_per_client=settings.live_listeners_per_client,
    )


def _readiness(stores: Stores) -> Readiness:
    return Readiness(
        stores.watch,
        stores.backlog.try_append,
        stores.installation,
        stores.connect,
        hot_window=None if stores.hot_watch is stores.watch else stores.hot_watch,
        clocks=stores.clocks,
    )


def _intake(settings: Settings, keyring: KeyringFile, stores: Stores, vaults: Vaults) -> Intake:
    max_openings = settings.max_openings << DEFAULT_SCRYPT_LOG2_N >> settings.scrypt_log2_n
    idempotency = IdempotencyPolicy(
        stores.names, settings.idempotency_seconds, settings.idempotency_max_requests
    )
    return Intake(
        vaults,
        PutOpenings(vaults, max(1, max_openings)),
        Sealer(keyring),
        stores.backlog,
        watch=stores.watch,
        shards=settings.shards,
        earlier_attempts=EarlierAttempts(stores.redis, vaults.cache, idempotency),
    )


def _readings(settings: Settings, pool: Pool, stores: Stores) -> Readings:
    return Readings(
        pool,
        stores.hot_window,
        shards=settings.shards,
        postgres_now=partial(_postgres_now, pool),
        slots=ReadSlots(settings.api_postgres_pool),
    )


def _reports(
    stores: Stores, keyring: KeyringFile, restorer: VaultRestorer
) -> Iterator[Callable[[], None]]:
    """Yield two functions, which report the process's loaded keys and its heartbeat to Redis."""
    reported = stores.redis, stores.names, "api", keyring.current
    require_ownership = stores.watch.require_ownership
    open_vaults = restorer.master_keys_in_use
    yield LoadedKeysReporter(
        *reported, require_ownership=require_ownership, open_vaults=open_vaults
    ).report
    yield HeartbeatSender(*reported, require_ownership=require_ownership).report


def _postgres_now(pool: Pool) -> int:
    return pool.run_idempotent(postgres_now)
