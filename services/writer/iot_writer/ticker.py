"""The ticker: a thread in every writer that queues the periodic jobs when they are due."""

import logging
import threading

from redis.exceptions import RedisError

from iot_models import names

from .writer import Writer

EVERY_SECONDS = {
    names.SWEEP_JOB: 2,
    names.PARTITIONS_JOB: 3600,
    names.RETENTION_JOB: 3600,
    names.INDEXES_JOB: 3600,
    names.UPGRADE_JOB: 60,
}
TICK_SECONDS = 1.0

_log = logging.getLogger(__name__)


class Ticker(threading.Thread):
    """However many writers there are, each job is queued once in its period."""

    def __init__(self, writer: Writer) -> None:
        super().__init__(name="ticker", daemon=True)
        self._writer = writer
        self._stopping = threading.Event()

    def run(self) -> None:
        """Tick until stopped. While Redis is away nothing is due."""
        while not self._stopping.wait(TICK_SECONDS):
            try:
                self.tick()
            except RedisError as error:
                _log.warning("Redis is away: %s", error)

    def tick(self) -> None:
        """Queue what is due."""
        client, key_names = self._writer.redis, self._writer.names
        for job, seconds in EVERY_SECONDS.items():
            if client.set(key_names.tick(job), 1, ex=seconds, nx=True):
                self._writer.backlog.arm([job])

    def stop(self) -> None:
        """End the thread, at its next tick at the latest."""
        self._stopping.set()
