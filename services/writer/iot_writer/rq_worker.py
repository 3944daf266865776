"""The RQ worker: runs the jobs in its own process, one after the other."""

import logging
import time
from datetime import UTC, datetime
from types import FrameType
from typing import Any, cast

from redis.exceptions import RedisError
from rq import Queue, SimpleWorker, worker_registration
from rq.exceptions import StopRequested
from rq.job import Job
from rq.serializers import JSONSerializer

from iot_models import names
from iot_models.errors import SettingsError
from iot_stores.postgres import AWAY
from iot_stores.redis_client import connect_redis, is_out_of_memory
from iot_stores.redis_watch import RedisWatch, UnfitRedisError
from iot_stores.store_states import report, state_of

from . import jobs, shutdown
from .ticker import Ticker
from .writer import Writer

RESTART_SECONDS = 1.0

_log = logging.getLogger(__name__)


class DrainWorker(SimpleWorker):
    """Takes jobs from the one queue. SIGTERM lets the job that runs finish, then it stops.

    It forks no process a job: a drain costs milliseconds, and its connections stay open.

    Of what RQ keeps in Redis for a worker to act on, nothing is acted on: no commands (`shutdown`,
    `stop-job`), no suspension, no groups, rate limits, retries or dependent jobs. The writer uses
    none of them, and they would act for whoever can write to Redis.
    """

    log_result_lifespan = False
    log_job_description = False
    max_connection_wait_time = 2.0
    watch: RedisWatch

    @property
    def dequeue_timeout(self) -> int:
        """Seconds to wait for a job at a time: a Redis that vanished is found out after these."""
        return 4

    @property
    def connection_timeout(self) -> int:
        """Seconds after which an answer of Redis is given up."""
        return self.dequeue_timeout + 2

    def dequeue_job_and_maintain_ttl(
        self, timeout: int | None, max_idle_time: int | None = None
    ) -> "tuple[Job, Queue] | None":
        """Take a job, unless Redis became another installation's: then RQ's loop ends."""
        try:
            self.watch.require_ours()
        except (UnfitRedisError, *AWAY):
            raise StopRequested from None
        return super().dequeue_job_and_maintain_ttl(timeout, max_idle_time)

    def request_stop(self, signum: int, frame: FrameType | None) -> None:
        """Take note that it's over, also if RQ ends its loop for another reason meanwhile."""
        shutdown.requested.set()
        super().request_stop(signum, frame)  # type: ignore[no-untyped-call]

    def subscribe(self) -> None:
        """Take no commands from Redis."""

    def check_for_suspension(self, burst: bool) -> None:
        """Go on: `rq suspend` would stop every writer, and the backlog would fill up."""

    def clean_group_registries(self) -> None:
        """Leave groups alone: there are none."""

    def clean_registries(self) -> None:
        """Forget the workers and the executions that have died.

        RQ's own cleanup restores jobs as plain `Job`, which trusts their hashes. What a writer that
        died left undone, the sweep queues again.
        """
        for queue in self.queues:
            worker_registration.clean_worker_registry(queue)
            self._forget_executions(queue)
        self.last_cleaned_at = datetime.now(UTC)  # type: ignore[assignment]

    def _forget_executions(self, queue: Queue) -> None:
        registry, now = queue.started_job_registry.key, time.time()
        died = cast("list[bytes]", self.connection.zrangebyscore(registry, 0, now))
        for execution in died:
            _log.warning("a writer died while it ran the job %.80r", execution)
        with self.connection.pipeline() as pipeline:
            pipeline.zremrangebyscore(registry, 0, now)
            # Jobs that were taken from the queue and did not begin. A job that another writer is
            # about to begin may be forgotten too: it runs all the same.
            pipeline.delete(queue.intermediate_queue_key)
            pipeline.execute()

    def handle_exception(self, job: Job, *exc_info: Any) -> None:
        """Log why a job failed; a state of Redis as the rest of the writer does."""
        error = exc_info[1]
        if isinstance(error, RedisError) and state_of(error) is not None:
            report(_log, "the writer waits for it", error)
        else:
            super().handle_exception(job, *exc_info)

    def _install_signal_handlers(self) -> None:
        super()._install_signal_handlers()  # type: ignore[no-untyped-call]
        if shutdown.requested.is_set():  # while RQ got ready, and ours were the handlers
            self._stop_requested = True


class _RedisStates(logging.Filter):
    """Logs a state of Redis as the rest of the writer does: RQ logs a traceback every second."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether RQ logs a record itself."""
        raised = record.exc_info[1] if record.exc_info else None
        arguments = record.args if isinstance(record.args, tuple) else ()
        for error in (raised, *arguments):
            if isinstance(error, RedisError) and state_of(error) is not None:
                report(_log, "the writer waits for it", error)
                return False
        return True


def work(writer: Writer) -> None:
    """Work until SIGTERM or SIGINT. RQ's loop ends when Redis breaks off; it is begun anew."""
    logging.getLogger("rq").setLevel(logging.WARNING)
    logging.getLogger("rq.worker").addFilter(_RedisStates())
    if writer.keys.current().from_keyring:
        _log.warning(
            "IOT_KEYRING_FILE holds the whole keyring, more than a writer needs: "
            "`iot-sensor keys writer` makes a file with a writer's keys alone"
        )
    ticker = Ticker(writer)
    ticker.start()
    writer.watcher.start()
    try:
        while not shutdown.requested.is_set():
            try:
                writer.watch.require_ours()
                _work_on_jobs(writer)
            except RedisError as error:
                report(_log, "the writer waits for it", error)
            except AWAY as error:
                report(_log, "whose Redis is, is not known", error)
            except UnfitRedisError:
                pass  # the watch has logged why
            except StopRequested:  # RQ raises it in its handler, wherever we are then
                break
            if not shutdown.requested.wait(RESTART_SECONDS):
                _relieve(writer)
        _hand_over(writer)
    finally:
        ticker.stop()
        writer.close()


def _hand_over(writer: Writer) -> None:
    """Queue the drains of all shards in which something waits: to end at once, RQ lets go of a job
    that it took and did not begin. Others would find that out at the next sweep only.
    """
    try:
        writer.watch.require_ours()
        writer.backlog.enqueue_once(
            [names.drain_job(shard) for shard in writer.backlog.oldest_ages()]
        )
    except RedisError as error:
        report(_log, "the sweep queues what waits", error)
    except (UnfitRedisError, *AWAY) as error:
        _log.debug("no drain is queued: %s", error)


def _relieve(writer: Writer) -> None:
    """A Redis that is full takes no job: drain without one, since that is what makes room."""
    try:
        writer.watch.require_ours()
        writer.backlog.enqueue_once([names.SWEEP_JOB])
    except RedisError as error:
        if is_out_of_memory(error):
            _log.warning("Redis is full: draining without jobs")
            _drain_directly(writer)
    except (UnfitRedisError, *AWAY) as error:
        _log.debug("no sweep is queued: %s", error)


def _drain_directly(writer: Writer) -> None:
    try:
        for shard in range(writer.settings.shards):
            writer.drain_shards([shard])
    except AWAY as error:
        writer.drop_postgres()
        report(_log, "draining without jobs failed", error)
    except (RedisError, UnfitRedisError, SettingsError) as error:
        report(_log, "draining without jobs failed", error)


def _work_on_jobs(writer: Writer) -> None:
    # A client of its own: RQ sets the timeouts of the one it is given to suit its blocking wait.
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
