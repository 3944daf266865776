"""The RQ worker. It runs the jobs in its own process, one after the other."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from types import FrameType
from typing import Any, cast

from redis.exceptions import RedisError
from rq import Queue, SimpleWorker, worker_registration
from rq.exceptions import StopRequested
from rq.job import Job
from rq.serializers import JSONSerializer
from rq.timeouts import JobTimeoutException

from iot_models import names
from iot_stores.redis_client import connect_redis, is_out_of_memory
from iot_stores.redis_watch import RedisWatch, UnfitRedisError
from iot_stores.store_states import POSTGRES_UNAVAILABLE, report, state_of

from . import jobs, shutdown
from .maintenance import sweep
from .ticker import Ticker
from .writer import Writer

RESTART_SECONDS = 1.0
"""Pause before RQ's loop is started again."""

_log = logging.getLogger(__name__)


class DrainWorker(SimpleWorker):
    """The RQ worker of the only queue. After SIGTERM it finishes the current job and stops.

    It forks no process for a job, because a drain takes milliseconds and reuses open connections.

    It ignores RQ's control data in Redis: commands (`shutdown`, `stop-job`), suspension, groups,
    rate limits, retries and dependent jobs. The writer uses none of these, and with them, a program
    with write access to Redis could stop all writers.
    """

    log_result_lifespan = False
    log_job_description = False
    max_connection_wait_time = 2.0
    watch: RedisWatch

    @property
    def dequeue_timeout(self) -> int:
        """Longest blocking wait for a job, in seconds: short, to notice the loss of Redis soon."""
        return 4

    @property
    def connection_timeout(self) -> int:
        """Timeout of Redis commands in seconds."""
        return self.dequeue_timeout + 2

    def dequeue_job_and_maintain_ttl(
        self, timeout: int | None, max_idle_time: int | None = None
    ) -> "tuple[Job, Queue] | None":
        """Return the next job and its queue; None if no job comes in time.

        Raises:
            StopRequested: Redis belongs to another installation, or its owner is unknown. The
                error ends RQ's loop.
        """
        try:
            self.watch.require_ownership()
        except (UnfitRedisError, *POSTGRES_UNAVAILABLE):
            raise StopRequested from None
        return super().dequeue_job_and_maintain_ttl(timeout, max_idle_time)

    @property
    def should_run_maintenance_tasks(self) -> bool:
        """Whether to remove dead workers now. RQ asks before it waits for a job.

        Raises:
            StopRequested: a signal has come. The signal handler has raised this error, too. But if
                the signal interrupted a destructor or a log handler, Python ignored the error.
        """
        if shutdown.requested.is_set():
            raise StopRequested
        return bool(super().should_run_maintenance_tasks)

    def request_stop(self, signum: int, frame: FrameType | None) -> None:
        """Stop after the current job. Set the shutdown flag, which ends `rq_worker.work`."""
        shutdown.requested.set()
        super().request_stop(signum, frame)  # type: ignore[no-untyped-call]

    def set_shutdown_requested_date(self) -> None:
        """Do nothing. RQ would write to Redis in its signal handler.

        The handler may run while the main thread holds the lock of the connection pool. The lock is
        not reentrant, so the writer would hang until SIGKILL.
        """

    def subscribe(self) -> None:
        """Do nothing. RQ would subscribe to commands in Redis, which this worker ignores."""

    def check_for_suspension(self, burst: bool) -> None:
        """Ignore `rq suspend`: it would stop all writers, and the backlog would fill up."""

    def clean_group_registries(self) -> None:
        """Do nothing, because there are no groups."""

    def clean_registries(self) -> None:
        """Remove dead workers and their executions from Redis. The sweep queues their jobs again.

        RQ's own cleanup would load the jobs with `rq.job.Job`, which trusts what Redis holds for a
        job, and would also queue dependent jobs.
        """
        for queue in self.queues:
            self._remove_workers(queue)
            self._remove_executions(queue)
        self.last_cleaned_at = datetime.now(UTC)  # type: ignore[assignment]

    def _remove_workers(self, queue: Queue) -> None:
        # RQ's own function raises an error at a planted name that is not UTF-8.
        of_queue = worker_registration.WORKERS_BY_QUEUE_KEY % queue.name
        keys = list(cast("set[bytes]", self.connection.smembers(of_queue)))
        with self.connection.pipeline() as pipeline:
            for key in keys:
                pipeline.exists(key)
            found = pipeline.execute()
        gone = [key for key, exists in zip(keys, found, strict=True) if not exists]
        if gone:
            self.connection.srem(of_queue, *gone)
            self.connection.srem(self.redis_workers_keys, *gone)

    def _remove_executions(self, queue: Queue) -> None:
        registry, now = queue.started_job_registry.key, time.time()
        expired = cast("list[bytes]", self.connection.zrangebyscore(registry, 0, now))
        for execution in expired:
            _log.warning(
                "the job %.80r did not end: its writer died, or Redis failed over or was restored",
                execution.decode(errors="replace"),
            )
        with self.connection.pipeline() as pipeline:
            pipeline.zremrangebyscore(registry, 0, now)
            # Removes jobs that a dead writer took from the queue but did not start. A job that a
            # live writer is about to start may be removed, too: the job runs nevertheless.
            pipeline.delete(queue.intermediate_queue_key)
            pipeline.execute()

    def handle_exception(self, job: Job, *exc_info: Any) -> None:
        """Log why a job failed: in one line if Redis can't serve, otherwise with a traceback."""
        error = exc_info[1]
        if isinstance(error, RedisError) and state_of(error) is not None:
            report(_log, "the writer waits for Redis", error)
        else:
            super().handle_exception(job, *exc_info)

    def _install_signal_handlers(self) -> None:
        super()._install_signal_handlers()  # type: ignore[no-untyped-call]
        if shutdown.requested.is_set():  # a signal came before RQ installed its handlers
            self._stop_requested = True


class _RedisStates(logging.Filter):
    """A log filter: while Redis can't serve, one line replaces RQ's tracebacks."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Return False if `record` reports that Redis can't serve, and log one line instead."""
        raised = record.exc_info[1] if record.exc_info else None
        arguments = record.args if isinstance(record.args, tuple) else ()
        for error in (raised, *arguments):
            if isinstance(error, RedisError) and state_of(error) is not None:
                report(_log, "the writer waits for Redis", error)
                return False
        return True


def work(writer: Writer) -> None:
    """Run jobs until SIGTERM or SIGINT. Start RQ's loop again after Redis was lost."""
    logging.getLogger("rq").setLevel(logging.WARNING)
    logging.getLogger("rq.worker").addFilter(_RedisStates())
    if writer.keys.current().from_keyring:
        _log.warning(
            "IOT_KEYRING_FILE holds the whole keyring, which is more than a writer needs: create a "
            "file with the writers' keys only (`iot-sensor keys writer`)"
        )
    ticker = Ticker(writer)
    ticker.start()
    writer.watcher.start()
    try:
        while not shutdown.requested.is_set():
            try:
                writer.watch.require_ownership()
                _work_on_jobs(writer)
            except RedisError as error:
                report(_log, "the writer waits for Redis", error)
            except POSTGRES_UNAVAILABLE as error:
                report(_log, "it is unknown which installation Redis belongs to", error)
            except UnfitRedisError:
                pass  # the watch has logged the reason
            except StopRequested:  # raised by RQ's signal handler, at any point
                break
            if not shutdown.requested.wait(RESTART_SECONDS):
                recover(writer)
        _hand_over(writer)
    finally:
        ticker.stop()
        writer.close()


def _hand_over(writer: Writer) -> None:
    """Queue the drains of all shards with waiting entries, for the other writers.

    When RQ shuts down, it drops a job that it has taken from the queue and not started. The sweep
    would queue this job again up to 3 s later.
    """
    try:
        writer.watch.require_ownership()
        writer.backlog.enqueue_once(
            [names.drain_job(shard) for shard in writer.backlog.oldest_ages()]
        )
    except RedisError as error:
        report(_log, "the sweep queues the drains", error)
    except (UnfitRedisError, *POSTGRES_UNAVAILABLE) as error:
        _log.debug("no drain is queued: %s", error)


def recover(writer: Writer) -> None:
    """Queue a sweep after RQ's loop has ended, for example because Redis was away.

    If Redis is full and takes no jobs, drain all shards directly, without jobs, to make room.
    """
    try:
        writer.watch.require_ownership()
        # `enqueue_once` needs no memory if the sweep is queued already.
        writer.backlog.try_append()
        writer.backlog.enqueue_once([names.SWEEP_JOB])
    except RedisError as error:
        if is_out_of_memory(error):
            _log.warning("Redis is full and takes no jobs: draining all shards directly")
            _drain_directly(writer)
    except (UnfitRedisError, *POSTGRES_UNAVAILABLE) as error:
        _log.debug("no sweep is queued: %s", error)


def _drain_directly(writer: Writer) -> None:
    """Release held entries, then drain each shard once. An error does not stop the next shard."""
    shards: list[int] = []
    with _like_a_job(writer):
        writer.repair_redis()
        shards = writer.backlog.shards()
        sweep.release_held(writer.held, writer.postgres)
    for shard in shards:
        if shutdown.requested.is_set():
            return
        with _like_a_job(writer):
            writer.drain_shards([shard])


@contextmanager
def _like_a_job(writer: Writer) -> Iterator[None]:
    """Give the `with` block the time limit of a job. Log its error instead of raising it."""
    try:
        with DrainWorker.death_penalty_class(jobs.TIMEOUT_SECONDS, JobTimeoutException):
            yield
    except Exception as error:  # noqa: BLE001 - any defect of one shard
        writer.drop_postgres()
        report(_log, "draining directly failed", error)


def _work_on_jobs(writer: Writer) -> None:
    # RQ gets its own client, because RQ changes the timeouts for its blocking wait.
    with connect_redis(writer.settings) as client:
        worker = DrainWorker(
            [jobs.job_queue(client, writer.names)],
            connection=client,
            job_class=jobs.KnownJob,
            serializer=JSONSerializer,
        )
        worker.watch = writer.watch
        try:
            worker.work(logging_level="WARNING")
        finally:
            shutdown.install_signal_handlers()
