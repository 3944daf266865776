"""The ticker: a thread in every writer that queues the periodic jobs when they are due."""

import logging
import threading
import time

from redis.exceptions import RedisError

from iot_models import metrics, names
from iot_stores.postgres import AWAY
from iot_stores.redis_watch import UnfitRedisError
from iot_stores.store_states import report

from .writer import Writer

EVERY_SECONDS = {
    names.SWEEP_JOB: 2,
    names.PARTITIONS_JOB: 3600,
    names.RETENTION_JOB: 3600,
    names.INDEXES_JOB: 3600,
    names.UPGRADE_JOB: 60,
}
TICK_SECONDS = 1.0
LOOK_AT_CLOCKS_SECONDS = 10.0

_log = logging.getLogger(__name__)


class Ticker(threading.Thread):
    """However many writers there are, each job is queued once in its period."""

    def __init__(self, writer: Writer) -> None:
        super().__init__(name="ticker", daemon=True)
        self._writer = writer
        self._stopping = threading.Event()
        self._look_at_clocks_from = 0.0

    def run(self) -> None:
        """Tick until stopped. While Redis is away nothing is due."""
        while not self._stopping.wait(TICK_SECONDS):
            try:
                self.tick()
                self._look_at_clocks()
            except RedisError as error:
                report(_log, "no job is queued", error)
            except (UnfitRedisError, *AWAY) as error:
                _log.debug("nothing is queued: %s", error)

    def tick(self) -> None:
        """Queue what is due, unless Redis is another installation's."""
        self._writer.watch.require_ours()
        keys = [self._writer.names.tick(job) for job in EVERY_SECONDS]
        with self._writer.redis.pipeline(transaction=False) as pipeline:
            pipeline.time()
            for key in keys:
                pipeline.get(key)
            (now, _), *queued = pipeline.execute()
        for (job, seconds), key, at in zip(EVERY_SECONDS.items(), keys, queued, strict=True):
            # Redis keeps the moment at which a key expires. A key that is from the future was set
            # before Redis's clock stepped back: it would stay for as long as the step was.
            stale = at is not None and at.isdigit() and int(at) > now + 1
            if at is not None and not stale:
                continue
            if self._writer.redis.set(key, now, ex=seconds, nx=not stale):
                self._writer.backlog.enqueue_once([job])

    def _look_at_clocks(self) -> None:
        if time.monotonic() < self._look_at_clocks_from:
            return
        self._look_at_clocks_from = time.monotonic() + LOOK_AT_CLOCKS_SECONDS
        self._writer.clocks.check()
        skew = self._writer.clocks.redis_ahead
        metrics.gauge("iot_writer_clock_skew_seconds").set(skew)

    def stop(self) -> None:
        """End the thread, at its next tick at the latest."""
        self._stopping.set()
