"""The RQ worker: runs the jobs in its own process, one after the other."""

import logging
import threading
from types import FrameType
from typing import ClassVar

from redis.exceptions import RedisError
from rq import SimpleWorker
from rq.serializers import JSONSerializer

from . import jobs
from .ticker import Ticker
from .writer import Writer

RESTART_SECONDS = 1.0

_log = logging.getLogger(__name__)


class DrainWorker(SimpleWorker):
    """Takes jobs from the one queue. SIGTERM lets the job that runs finish, then it stops.

    It forks no process a job: a drain costs milliseconds, and its connections stay open.
    """

    log_result_lifespan = False
    log_job_description = False
    max_connection_wait_time = 2.0
    stop_asked: ClassVar[threading.Event] = threading.Event()

    def request_stop(self, signum: int, frame: FrameType | None) -> None:
        """Take note that it's over, also if RQ ends its loop for another reason meanwhile."""
        self.stop_asked.set()
        super().request_stop(signum, frame)  # type: ignore[no-untyped-call]


def work(writer: Writer) -> None:
    """Work until SIGTERM or SIGINT. RQ's loop ends when Redis breaks off; it is begun anew."""
    logging.getLogger("rq").setLevel(logging.WARNING)
    ticker = Ticker(writer)
    ticker.start()
    try:
        while not DrainWorker.stop_asked.is_set():
            try:
                jobs.register(writer)
                worker = DrainWorker(
                    [jobs.job_queue(writer)],
                    connection=writer.redis,
                    job_class=jobs.KnownJob,
                    serializer=JSONSerializer,
                )
                worker.work(logging_level="WARNING")
            except RedisError as error:
                _log.warning("Redis is away: %s", error)
            if not DrainWorker.stop_asked.is_set():
                DrainWorker.stop_asked.wait(RESTART_SECONDS)
    finally:
        ticker.stop()
        writer.close()
