"""The ticker: a thread in every writer that queues the periodic jobs when they are due."""

import logging
import threading
import time

from redis.exceptions import RedisError

from iot_models import metrics, names
from iot_stores.backlog_counters import parse_digits
from iot_stores.redis_watch import UnfitRedisError
from iot_stores.scripts import checked
from iot_stores.store_states import POSTGRES_UNAVAILABLE, is_wrong_type, report

from .writer import Writer

EVERY_SECONDS = {
    names.SWEEP_JOB: 2,
    names.PARTITIONS_JOB: 3600,
    names.RETENTION_JOB: 3600,
    names.INDEXES_JOB: 3600,
    names.UPGRADE_JOB: 60,
}
TICK_SECONDS = 1.0
CLOCK_CHECK_SECONDS = 10.0

_log = logging.getLogger(__name__)


class Ticker(threading.Thread):
    """A thread that queues each job once in its period, regardless of the number of writers.

    Before the thread queues a sweep, it also repairs Redis (`sweep.repair`).
    """

    def __init__(self, writer: Writer) -> None:
        super().__init__(name="ticker", daemon=True)
        self._writer = writer
        self._stopping = threading.Event()
        self._next_clock_check = 0.0

    def run(self) -> None:
        """Tick until stopped. Queue nothing while Redis is away."""
        while not self._stopping.wait(TICK_SECONDS):
            try:
                self.tick()
                self._check_clocks()
            except RedisError as error:
                report(_log, "periodic jobs are not queued", error)
            except (UnfitRedisError, *POSTGRES_UNAVAILABLE) as error:
                _log.debug("periodic jobs are not queued: %s", error)
            except Exception as error:  # noqa: BLE001 - the thread must survive any defect
                report(_log, "periodic jobs are not queued", error)

    def tick(self) -> None:
        """Queue the jobs that are due.

        Raises:
            UnfitRedisError: Redis belongs to another installation, or its owner is unknown.
            RedisError, POSTGRES_UNAVAILABLE: a store can't serve.
        """
        self._writer.watch.require_ownership()
        keys = [self._writer.names.tick(job) for job in EVERY_SECONDS]
        with self._writer.redis.pipeline(transaction=False) as pipeline:
            pipeline.time()
            for key in keys:
                pipeline.get(key)
            answers = pipeline.execute(raise_on_error=False)
        # A key of another type counts as a key without a time.
        (now, _), *queued = checked([b"" if is_wrong_type(each) else each for each in answers])
        for (job, seconds), key, at in zip(EVERY_SECONDS.items(), keys, queued, strict=True):
            # A key lives too long after Redis's clock was set back, and for good in a copy of Redis
            # that lost the expiry. So the time in the key counts, too. Only another program can
            # have written a value that is no time.
            queued_at = parse_digits(at or b"")
            if queued_at is not None and now - seconds <= queued_at <= now + 1:
                continue
            if self._writer.redis.set(key, now, ex=seconds, nx=at is None):
                if job == names.SWEEP_JOB:
                    # Not a part of the job, because RQ runs no job while a key of RQ is damaged.
                    self._writer.repair_redis()
                self._writer.backlog.enqueue_once([job])

    def _check_clocks(self) -> None:
        if time.monotonic() < self._next_clock_check:
            return
        self._next_clock_check = time.monotonic() + CLOCK_CHECK_SECONDS
        self._writer.clocks.check()
        skew = self._writer.clocks.redis_ahead
        metrics.gauge("iot_writer_clock_skew_seconds").set(skew)

    def stop(self) -> None:
        """Stop the thread, at its next tick at the latest."""
        self._stopping.set()
