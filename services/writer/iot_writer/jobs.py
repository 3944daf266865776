"""The RQ jobs. Each job has a fixed id, so it waits in the queue at most once.

The writer reads only the id and the status of a job from Redis. So a program with write access to
Redis can queue these jobs, but can't make the writer run other code.
"""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import ParamSpec, TypeVar, cast

import psycopg
from redis import Redis
from redis.exceptions import RedisError
from rq import Queue
from rq.defaults import RQ_KEY_PREFIX
from rq.exceptions import NoSuchJobError
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer
from rq.timeouts import JobTimeoutException

from iot_models import metrics, names
from iot_models.errors import SettingsError
from iot_stores.redis_watch import UnfitRedisError
from iot_stores.store_states import POSTGRES_UNAVAILABLE, report, state_of
from iot_writer.drain.drain import DrainOutcome
from iot_writer.maintenance.partitions import ensure_months_ahead

from . import shutdown
from .maintenance import lookup_upgrade, retention, sweep
from .writer import Writer, current

LINGER_SECONDS = 0.015
"""Shortest time between the starts of two drains of a writer, so that a drain under load has many
entries (docs/adr/0031)."""
BUSY_ENTRIES = 3000
"""Entries a second above which the linger grows, because the API needs the CPU for requests."""
MAX_LINGER_SECONDS = 0.05
"""The longest linger. It applies if `2 * BUSY_ENTRIES` or more entries come in a second."""
PAUSE_SECONDS = 0.005
"""Shortest pause after a drain, even after a long drain, so that idle writers get work, too."""
JOB_SECONDS = 1.0
"""Time for which a job continues with waiting drains. RQ's overhead for a job is as large as a
drain, so a job for every drain would double the cost."""
TIMEOUT_SECONDS = 120
KEEP_FOREVER = -1

_log = logging.getLogger(__name__)
_drain_began = 0.0
_next_drain_at = 0.0
_drain_failed = False
"""Whether the last drain of this process failed."""


Function = Callable[..., str | int]
P = ParamSpec("P")
R = TypeVar("R", bound=str | int)


def _waiting_for_stores(
    consequence: str,
) -> Callable[[Callable[P, R]], Callable[P, R | str]]:
    """Return a decorator for jobs that need the stores.

    If a store can't serve, or the database has the wrong schema, the job logs `consequence` and the
    reason, and ends without an error. The sweep or the ticker queues the job again.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R | str]:
        @wraps(function)
        def run(*args: P.args, **kwargs: P.kwargs) -> R | str:
            try:
                return function(*args, **kwargs)
            # SettingsError: a database that is being restored has no schema.
            except (SettingsError, *POSTGRES_UNAVAILABLE) as error:
                current().drop_postgres()
                report(_log, consequence, error)
                return "postgres_away"
            except RedisError as error:
                if state_of(error) is None:
                    raise
                report(_log, consequence, error)
                return "redis_away"
            except JobTimeoutException:
                # A statement may still run, and the connection would refuse the next one.
                current().drop_postgres()
                raise

        return run

    return decorate


@_waiting_for_stores("nothing is drained")
def drain(shard: int) -> str:
    """Drain `shard`, and all shards whose drains wait in the queue. Return the outcome of `shard`.

    Continue with drains that are queued meanwhile, for up to `JOB_SECONDS`.
    """
    writer = current()
    until = time.monotonic() + JOB_SECONDS
    _linger()
    outcomes = _drain(writer, [shard, *writer.backlog.take_drains()])
    outcome = outcomes.get(shard, "postgres_away")
    while outcomes and time.monotonic() < until and not shutdown.requested.is_set():
        _linger()
        waiting = writer.backlog.take_drains()
        outcomes = _drain(writer, waiting) if waiting else {}
    return outcome


def _drain(writer: Writer, shards: Sequence[int]) -> dict[int, str]:
    """Drain shards once. Queue the drains of shards with entries left.

    Return the outcome of each shard. Return {} if Redis belongs to another installation, or if its
    owner is unknown. If a store can't serve, raise its error; the entries stay in the backlog.
    """
    global _drain_began, _next_drain_at, _drain_failed  # noqa: PLW0603 - one per process
    last, began = _drain_began, time.monotonic()
    _drain_began = began
    if _drain_failed:
        metrics.counter("iot_drain_retries_total").inc()
    _drain_failed = True
    try:
        with _counting_failures("iot_drains_total"):
            drained = writer.drain_shards(shards)
    except UnfitRedisError:
        return {}  # the watch has logged the reason
    _drain_failed = False
    if drained.left:
        writer.backlog.enqueue_once([names.drain_job(shard) for shard in drained.left])
    for outcome in drained.outcomes.values():
        _count("iot_drains_total", outcome)
    ended = time.monotonic()
    linger = linger_after(drained.entries, began - last)
    _next_drain_at = max(began + linger, ended + PAUSE_SECONDS)
    if DrainOutcome.STORED in drained.outcomes.values():
        metrics.histogram("iot_drain_seconds").observe(ended - began)
    return dict(drained.outcomes)


@contextmanager
def _counting_failures(counter: str) -> Iterator[None]:
    """Count an error of the `with` block in the metric `counter`, and raise it again.

    The metric's label is `postgres_away`, `redis_away` or `failed`. If the job times out while it
    waits for Postgres, raise `psycopg.OperationalError`.
    """
    try:
        with _hanging_postgres_is_away():
            yield
    except POSTGRES_UNAVAILABLE:
        _count(counter, "postgres_away")
        raise
    except Exception as error:
        _count(counter, "failed" if state_of(error) is None else "redis_away")
        raise


@contextmanager
def _hanging_postgres_is_away() -> Iterator[None]:
    """Turn a timeout of the job into an error of Postgres, if the job waited for Postgres.

    A stopped server or a paused PgBouncer keeps its connections, so the client sees no error.
    """
    try:
        yield
    except JobTimeoutException as error:
        if not current().waits_for_postgres():
            raise
        raise psycopg.OperationalError(
            f"no answer before the job's time limit of {TIMEOUT_SECONDS} s"
        ) from error


def _count(counter: str, outcome: str) -> None:
    metrics.counter(counter).labels(outcome).inc()


def linger_after(entries: int, seconds: float) -> float:
    """Return the linger after a drain, in seconds.

    `entries`: number of entries that the drain took. `seconds`: the time in which they arrived.
    """
    rate = entries / max(seconds, LINGER_SECONDS)
    busy = min(1.0, max(0.0, rate / BUSY_ENTRIES - 1))
    return LINGER_SECONDS + busy * (MAX_LINGER_SECONDS - LINGER_SECONDS)


def _linger() -> None:
    wait = _next_drain_at - time.monotonic()
    if wait > 0:
        time.sleep(wait)


@_waiting_for_stores("nothing is compacted")
def compact() -> str:
    """Execute one compaction order. Queue this job again if orders are left. Return the outcome.

    If an entry has waited in the backlog for longer than `STALE_SECONDS`, do nothing and return
    "later", because drains come first.
    """
    writer = current()
    if any(age > sweep.STALE_SECONDS for age in writer.backlog.oldest_ages().values()):
        return "later"  # the sweep queues the job again
    with _counting_failures("iot_compactions_total"):
        outcome, left = writer.compaction.run(writer.postgres())
    if left:
        writer.backlog.enqueue_once([names.COMPACT_JOB])
    _count("iot_compactions_total", outcome)
    return outcome


@_waiting_for_stores("the shards are not swept")
def sweep_shards() -> int:
    """Queue lost drains, and return their number. Release held entries whose vaults are back.

    Also queue `compact` if compaction orders wait, carry out orders for dead letters, chain new
    records of the audit log, and delete what is left of erased vaults. No drain waits for a lock of
    this job.

    A drain is lost if its writer dies, or if the number of shards changes.
    """
    writer = current()
    try:
        sweep.release_held(writer.held, writer.postgres)
    except POSTGRES_UNAVAILABLE as error:
        writer.drop_postgres()
        report(_log, "held entries are not released", error)
    if writer.compaction_orders.count():
        writer.backlog.enqueue_once([names.COMPACT_JOB])
    queued = sweep.sweep(writer.backlog)
    # Last, because Postgres may be slow.
    writer.letter_orders.run(writer.postgres)
    writer.audit_chainer.run(writer.postgres, writer.drop_postgres)
    if writer.vault_deletion.run(writer.postgres()):
        writer.backlog.enqueue_once([names.SWEEP_JOB])
    return queued


@_waiting_for_stores("no partitions are created")
def make_partitions() -> int:
    """Create the partitions of the next months. Return how many were created."""
    writer = current()
    created = ensure_months_ahead(writer.postgres(), writer.backlog.now())
    _note_success(names.PARTITIONS_JOB)
    return created


@_waiting_for_stores("no old readings are deleted")
def enforce_retention() -> int:
    """Delete readings that are older than the retention. Return the number of deleted segments."""
    writer = current()
    days = writer.settings.retention_days
    deleted = retention.enforce(
        writer.postgres(), writer.audit, days=days, redis_now=writer.backlog.now()
    )
    _note_success(names.RETENTION_JOB)
    return deleted


@_waiting_for_stores("no indexes are rebuilt")
def rebuild_indexes() -> str:
    """Start to rebuild bloated indexes. Return "started", or "still running" if a rebuild runs."""
    return "started" if current().bloated_indexes.start() else "still running"


@_waiting_for_stores("the upgrade from version 0.1 is not finished")
def advance_upgrade() -> str:
    """Finish an upgrade from version 0.1, once the old processes have had time to shut down."""
    writer = current()
    seconds = writer.settings.upgrade_after_seconds
    done = lookup_upgrade.advance(writer.postgres(), after_seconds=seconds)
    return "done" if done else "nothing to do"


def _note_success(job: str) -> None:
    metrics.gauge("iot_job_last_success_timestamp_seconds").labels(job).set_to_current_time()


_FUNCTIONS: Mapping[str, Function] = {
    names.SWEEP_JOB: sweep_shards,
    names.PARTITIONS_JOB: make_partitions,
    names.RETENTION_JOB: enforce_retention,
    names.COMPACT_JOB: compact,
    names.INDEXES_JOB: rebuild_indexes,
    names.UPGRADE_JOB: advance_upgrade,
}
_DRAINS: Mapping[str, int] = {names.drain_job(shard): shard for shard in range(names.MAX_SHARDS)}


def find_job(job_id: str) -> tuple[Function, tuple[int, ...]] | None:
    """Return the function and the arguments of a job; None for an unknown id."""
    if job_id in _DRAINS:
        return drain, (_DRAINS[job_id],)
    function = _FUNCTIONS.get(job_id)
    return None if function is None else (function, ())


class KnownJob(Job):
    """A job of this module, built from its id. Only the status is read from the job's hash.

    RQ's own class would import the callbacks and send the webhooks that the hash names. With that
    class, a program with write access to Redis could run code in the writers.
    """

    def __init__(
        self,
        id: str | None = None,  # noqa: A002 - RQ's name
        connection: "Redis | None" = None,
        serializer: object = None,  # noqa: ARG002 - always JSON, because a pickle could run code
    ) -> None:
        """Raise `NoSuchJobError` when `id` is not the id of a job."""
        known = None if id is None else find_job(id)
        if known is None:
            raise NoSuchJobError(f"{id!r} is not a job of the writer")
        super().__init__(id, connection, JSONSerializer)
        self._function, self._args = known
        self._func_name = f"{self._function.__module__}.{self._function.__qualname__}"
        self._instance, self._kwargs = None, {}
        self.origin = names.JOB_QUEUE
        self.timeout = TIMEOUT_SECONDS
        self.result_ttl = self.failure_ttl = KEEP_FOREVER

    @property
    def func(self) -> Function:
        return self._function

    @classmethod
    def fetch(
        cls,
        id: str,  # noqa: A002 - RQ's name
        connection: "Redis | None" = None,
        serializer: object = None,  # noqa: ARG003
    ) -> "KnownJob":
        """Return the job, with its status in Redis. Raises `NoSuchJobError` for an unknown id."""
        try:
            job = cls(id, connection)
        except NoSuchJobError:
            _log.warning("dropped an unknown job from the queue: %.80r", id)
            raise
        job.refresh()
        return job

    @classmethod
    def fetch_many(
        cls,
        job_ids: Iterable[str],
        connection: "Redis",  # noqa: ARG003
        serializer: object = None,  # noqa: ARG003
    ) -> list[Job | None]:
        """Return None for each id. RQ asks for dependent jobs, which no job of the writer has."""
        return [None for _ in job_ids]

    def refresh(self) -> None:
        """Read the job's status from Redis."""
        self.restore({b"status": cast("bytes | None", self.connection.hget(self.key, "status"))})

    def restore(self, raw_data: Mapping[bytes, bytes | None]) -> None:
        """Take only the status from a job's hash."""
        status = (raw_data.get(b"status") or b"").decode(errors="replace")
        known = status in set(JobStatus)
        self._status = JobStatus(status) if known else JobStatus.CREATED


def job_queue(client: "Redis", key_names: names.KeyNames) -> Queue:
    """Return the queue of all jobs. Its serializer is JSON, because a pickle could run code."""
    if key_names.rq != RQ_KEY_PREFIX:
        raise RuntimeError(
            f"RQ uses the key prefix {RQ_KEY_PREFIX}: set RQ_KEY_PREFIX={key_names.rq} before "
            "importing RQ"
        )
    return Queue(
        names.JOB_QUEUE,
        connection=client,
        job_class=KnownJob,
        serializer=JSONSerializer,
    )
