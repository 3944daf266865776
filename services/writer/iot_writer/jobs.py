"""The RQ jobs. Each has one fixed id, so that it waits at most once, and is queued by its id alone.

Whoever can write to Redis can queue these jobs, and no others.
"""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import ParamSpec, TypeVar, cast

from redis import Redis
from redis.exceptions import RedisError
from rq import Queue
from rq.defaults import RQ_KEY_PREFIX
from rq.exceptions import NoSuchJobError
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer

from iot_models import metrics, names
from iot_models.errors import SettingsError
from iot_stores.postgres import AWAY
from iot_stores.redis_watch import UnfitRedisError
from iot_stores.store_states import report, state_of
from iot_writer.drain.drain import DrainOutcome
from iot_writer.maintenance.partitions import ensure_months_ahead

from . import shutdown
from .maintenance import lookup_upgrade, retention, sweep
from .writer import Writer, current

LINGER_SECONDS = 0.025
"""A writer drains this often at most, so that under load a drain gathers many entries."""
JOB_SECONDS = 1.0
"""For so long one job goes on with the drains that wait: RQ's work on a job costs what a drain
costs."""
TIMEOUT_SECONDS = 120
KEEP_FOR_EVER = -1

_log = logging.getLogger(__name__)
_drained_at = 0.0


Function = Callable[..., str | int]
P = ParamSpec("P")
R = TypeVar("R", bound=str | int)


def _waiting_for_stores(
    consequence: str,
) -> Callable[[Callable[P, R]], Callable[P, R | str]]:
    """Let a job end without an error when a store can't serve, or the database has no fit schema:
    the sweep or the ticker queues it again. The log tells the `consequence`.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R | str]:
        @wraps(function)
        def run(*args: P.args, **kwargs: P.kwargs) -> R | str:
            try:
                return function(*args, **kwargs)
            except AWAY as error:
                current().drop_postgres()
                report(_log, consequence, error)
                return "postgres_away"
            except SettingsError as error:  # of the database: it has no schema while it is restored
                report(_log, consequence, error)
                return "postgres_away"
            except RedisError as error:
                if state_of(error) is None:
                    raise
                report(_log, consequence, error)
                return "redis_away"

        return run

    return decorate


@_waiting_for_stores("nothing is drained")
def drain(shard: int) -> str:
    """Store what waits in a shard; and then in all whose drains are queued meanwhile, for
    `JOB_SECONDS`. How it ended for that shard.
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
    """Drain shards once, and queue those again in which entries are left; how it ended for each,
    and nothing when Redis must not be used. When a store can't serve, the sweep queues the shards
    again, and what waits, waits in the backlog.
    """
    global _drained_at  # noqa: PLW0603 - of this process, as its connection is
    began = time.monotonic()
    try:
        with _counting_failures("iot_drains_total"):
            drained = writer.drain_shards(shards)
    except UnfitRedisError:
        return {}  # the watch logs why
    if drained.left:
        writer.backlog.enqueue_once([names.drain_job(shard) for shard in drained.left])
    for outcome in drained.outcomes.values():
        _count("iot_drains_total", outcome)
    _drained_at = time.monotonic()
    if DrainOutcome.STORED in drained.outcomes.values():
        metrics.histogram("iot_drain_seconds").observe(_drained_at - began)
    return dict(drained.outcomes)


@contextmanager
def _counting_failures(counter: str) -> Iterator[None]:
    """Count, by its kind, the error with which the work within ends."""
    try:
        yield
    except AWAY:
        _count(counter, "postgres_away")
        raise
    except Exception as error:
        _count(counter, "failed" if state_of(error) is None else "redis_away")
        raise


def _count(counter: str, outcome: str) -> None:
    metrics.counter(counter).labels(outcome).inc()


def _linger() -> None:
    wait = _drained_at + LINGER_SECONDS - time.monotonic()
    if wait > 0:
        time.sleep(wait)


@_waiting_for_stores("nothing is compacted")
def compact() -> str:
    """Do one order to merge small segments, and queue the next; while drains are behind, none."""
    writer = current()
    if any(age > sweep.STALE_SECONDS for age in writer.backlog.oldest_ages().values()):
        return "later"  # the sweep queues it again
    with _counting_failures("iot_compactions_total"):
        outcome, left = writer.compaction.run(writer.postgres())
    if left:
        writer.backlog.enqueue_once([names.COMPACT_JOB])
    _count("iot_compactions_total", outcome)
    return outcome


@_waiting_for_stores("the shards are not swept")
def sweep_shards() -> int:
    """Queue drains for the shards that were left behind, also by a change of their number, and
    the compaction that was. Release the entries whose vaults are back.
    """
    writer = current()
    sweep.recount(writer.counters)
    try:
        sweep.release_held(writer.held, writer.postgres)
    except AWAY as error:
        writer.drop_postgres()
        report(_log, "held entries are not released", error)
    if writer.compaction_orders.count():
        writer.backlog.enqueue_once([names.COMPACT_JOB])
    return sweep.sweep(writer.backlog)


@_waiting_for_stores("no partitions are made")
def make_partitions() -> int:
    """Make the partitions of the months to come."""
    writer = current()
    made = ensure_months_ahead(writer.postgres(), writer.backlog.now())
    _note_success(names.PARTITIONS_JOB)
    return made


@_waiting_for_stores("no old readings are deleted")
def enforce_retention() -> int:
    """Delete what is older than it may be."""
    writer = current()
    days = writer.settings.retention_days
    deleted = retention.enforce(
        writer.postgres(), writer.audit, days=days, redis_now=writer.backlog.now()
    )
    _note_success(names.RETENTION_JOB)
    return deleted


@_waiting_for_stores("no indexes are rebuilt")
def rebuild_indexes() -> str:
    """Begin to rebuild the indexes that compaction has thinned out."""
    return "begun" if current().sparse_indexes.begin() else "goes on"


@_waiting_for_stores("the upgrade is not ended")
def advance_upgrade() -> str:
    """End an upgrade from the version before when its processes have had the time to end."""
    writer = current()
    seconds = writer.settings.upgrade_after_seconds
    done = lookup_upgrade.advance(writer.postgres(), after_seconds=seconds)
    return "done" if done else "nothing to do"


def _note_success(job: str) -> None:
    metrics.gauge("iot_job_last_success_timestamp_seconds").labels(job).set_to_current_time()


_PERIODIC: Mapping[str, Function] = {
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
    function = _PERIODIC.get(job_id)
    return None if function is None else (function, ())


class KnownJob(Job):
    """A job of this module, built from its id.

    Whoever can write to Redis can write a job's hash, and RQ would import the callbacks and send
    the webhooks that the hash names. Only the status is read from the hash, and no hash is needed.
    """

    def __init__(
        self,
        id: str | None = None,  # noqa: A002 - RQ's name
        connection: "Redis | None" = None,
        serializer: object = None,  # noqa: ARG002 - a pickle from Redis could run anything
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
        self.result_ttl = self.failure_ttl = KEEP_FOR_EVER

    @property
    def func(self) -> Function:
        """The job's function."""
        return self._function

    @classmethod
    def fetch(
        cls,
        id: str,  # noqa: A002 - RQ's name
        connection: "Redis | None" = None,
        serializer: object = None,  # noqa: ARG003
    ) -> "KnownJob":
        """Return a job with its status. Raises `NoSuchJobError` for an unknown id."""
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
        """Find none: RQ asks for the jobs that depend on others, and these do not."""
        return [None for _ in job_ids]

    def refresh(self) -> None:
        """Read the status."""
        self.restore({b"status": cast("bytes | None", self.connection.hget(self.key, "status"))})

    def restore(self, raw_data: Mapping[bytes, bytes | None]) -> None:
        """Take the status from a job's hash, and nothing else."""
        status = (raw_data.get(b"status") or b"").decode(errors="replace")
        known = status in set(JobStatus)
        self._status = JobStatus(status) if known else JobStatus.CREATED


def job_queue(client: "Redis", key_names: names.KeyNames) -> Queue:
    """The queue of all jobs. What it holds is JSON: a pickle from Redis could run anything."""
    if key_names.rq != RQ_KEY_PREFIX:
        raise RuntimeError(f"RQ was imported with RQ_KEY_PREFIX={RQ_KEY_PREFIX}")
    return Queue(
        names.JOB_QUEUE,
        connection=client,
        job_class=KnownJob,
        serializer=JSONSerializer,
    )
