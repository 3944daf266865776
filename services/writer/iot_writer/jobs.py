"""The RQ jobs. Each has one fixed id, so that it waits at most once, and queues by its id alone."""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from rq import Queue
from rq.job import Job
from rq.serializers import JSONSerializer

from iot_models import metrics, names
from iot_stores.postgres import AWAY

from . import lookup_upgrade, retention, stopping, sweep
from .drain import Outcome
from .partitions import ensure_months_ahead
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


def drain(shard: int) -> str:
    """Store what waits in a shard; and then in all whose drains are queued meanwhile, for
    `JOB_SECONDS`. How it ended for that shard.
    """
    writer = current()
    until = time.monotonic() + JOB_SECONDS
    _linger()
    outcomes = _drain(writer, [shard, *writer.backlog.take_drains()])
    outcome = outcomes.get(shard, "postgres_away")
    while outcomes and time.monotonic() < until and not stopping.asked.is_set():
        _linger()
        waiting = writer.backlog.take_drains()
        outcomes = _drain(writer, waiting) if waiting else {}
    return outcome


def _drain(writer: Writer, shards: Sequence[int]) -> dict[int, str]:
    """Drain shards once, and queue those again in which entries are left; how it ended for each,
    and nothing when Postgres is away.
    """
    global _drained_at  # noqa: PLW0603 - of this process, as its connection is
    began = time.monotonic()
    try:
        with _counting_failures("iot_drains_total"):
            drained = writer.drain.run(writer.postgres(), shards)
    except AWAY as error:
        # The sweep queues the shards again; what waits, waits in the backlog.
        _log.warning("nothing is drained, Postgres is away: %s", _first_line(error))
        return {}
    if drained.left:
        writer.backlog.arm([names.drain_job(shard) for shard in drained.left])
    for outcome in drained.outcomes.values():
        _count("iot_drains_total", outcome)
    _drained_at = time.monotonic()
    if Outcome.STORED in drained.outcomes.values():
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
    except (RedisConnectionError, RedisTimeoutError):
        _count(counter, "redis_away")
        raise
    except Exception:
        _count(counter, "failed")
        raise


def _count(counter: str, outcome: str) -> None:
    metrics.counter(counter).labels(outcome).inc()


def _linger() -> None:
    wait = _drained_at + LINGER_SECONDS - time.monotonic()
    if wait > 0:
        time.sleep(wait)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def compact() -> str:
    """Do one order to merge small segments, and queue the next; while drains are behind, none."""
    writer = current()
    if any(age > sweep.STALE_SECONDS for age in writer.backlog.oldest().values()):
        return "later"  # the sweep queues it again
    try:
        with _counting_failures("iot_compactions_total"):
            outcome, left = writer.compaction.run(writer.postgres())
    except AWAY as error:
        _log.warning("nothing is compacted, Postgres is away: %s", _first_line(error))
        return "postgres_away"
    if left:
        writer.backlog.arm([names.COMPACT_JOB])
    _count("iot_compactions_total", outcome)
    return outcome


def sweep_shards() -> int:
    """Queue drains for the shards that were left behind, also by a change of their number, and
    the compaction that was.
    """
    writer = current()
    register(writer)
    if writer.compaction_orders.waiting():
        writer.backlog.arm([names.COMPACT_JOB])
    return sweep.sweep(writer.backlog)


def make_partitions() -> int:
    """Make the partitions of the months to come."""
    made = ensure_months_ahead(current().postgres())
    _note_success(names.PARTITIONS_JOB)
    return made


def enforce_retention() -> int:
    """Delete what is older than it may be."""
    writer = current()
    days = writer.settings.retention_days
    deleted = retention.enforce(writer.postgres(), writer.audit, days=days)
    _note_success(names.RETENTION_JOB)
    return deleted


def rebuild_indexes() -> str:
    """Begin to rebuild the indexes that compaction has thinned out."""
    return "begun" if current().sparse_indexes.begin() else "goes on"


def advance_upgrade() -> str:
    """End an upgrade from the version before when its processes have had the time to end."""
    writer = current()
    seconds = writer.settings.upgrade_after_seconds
    done = lookup_upgrade.advance(writer.postgres(), after_seconds=seconds)
    return "done" if done else "nothing to do"


def _note_success(job: str) -> None:
    metrics.gauge("iot_job_last_success_timestamp_seconds").labels(job).set_to_current_time()


Function = Callable[[int], str] | Callable[[], int] | Callable[[], str]


def known_jobs(shards: Iterable[int]) -> dict[str, tuple[Function, tuple[int, ...]]]:
    """Every job there is: its id, its function and its arguments."""
    jobs: dict[str, tuple[Function, tuple[int, ...]]] = {
        names.drain_job(shard): (drain, (shard,)) for shard in shards
    }
    jobs[names.SWEEP_JOB] = (sweep_shards, ())
    jobs[names.PARTITIONS_JOB] = (make_partitions, ())
    jobs[names.RETENTION_JOB] = (enforce_retention, ())
    jobs[names.COMPACT_JOB] = (compact, ())
    jobs[names.INDEXES_JOB] = (rebuild_indexes, ())
    jobs[names.UPGRADE_JOB] = (advance_upgrade, ())
    return jobs


class KnownJob(Job):
    """A job that runs this module's functions and no others, whatever stands in Redis."""

    @property
    def func(self) -> Function:
        """The job's function; raises `PermissionError` when it is none of ours."""
        for function, _ in known_jobs([0]).values():
            if self.func_name == f"{function.__module__}.{function.__qualname__}":
                return function
        raise PermissionError(f"{self.func_name} is not a job of the writer")


def job_queue(client: "Redis") -> Queue:
    """The queue of all jobs. What it holds is JSON: a pickle from Redis could run anything."""
    return Queue(
        names.JOB_QUEUE,
        connection=client,
        job_class=KnownJob,
        serializer=JSONSerializer,
    )


def register(writer: Writer) -> None:
    """Write the jobs that Redis doesn't hold, so that their ids can be queued by anyone.

    Nor does it hold one of which there is only what RQ notes as it ends: it was wiped meanwhile.
    """
    known = known_jobs(writer.backlog.shards())
    with writer.redis.pipeline(transaction=False) as pipeline:
        for job_id in known:
            pipeline.hexists(KnownJob.key_for(job_id), "data")
        whole = pipeline.execute()
    for (job_id, (function, arguments)), there in zip(known.items(), whole, strict=True):
        if not there:
            job = KnownJob.create(
                function,
                arguments,
                id=job_id,
                connection=writer.redis,
                origin=names.JOB_QUEUE,
                timeout=TIMEOUT_SECONDS,
                result_ttl=KEEP_FOR_EVER,
                failure_ttl=KEEP_FOR_EVER,
                serializer=JSONSerializer,
            )
            job.save()
