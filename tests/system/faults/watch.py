"""The watch observes commits and waiting entries in the stores, without the proxies."""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import cast

import psycopg
from redis.exceptions import RedisError

from iot_tools.local.child import wait_until
from support.keys import KEYS
from system.faults.service import SHARDS, Service

_LOOK_SECONDS = 0.05
_AROUND_SECONDS = 1.0
"""More than the time between two observations and the usual time of a request."""
_POSITIONS = "SELECT shard, position FROM ingest_offsets ORDER BY shard"

Fronts = tuple[bytes | None, ...]


class Watch:
    """An observer of both stores, with a thread for each, until `stop`."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self.commits: list[float] = []
        """Times at which commits of drains were observed."""
        self.fronts: list[tuple[float, Fronts]] = []
        """The oldest waiting entry of each shard, over time."""
        self.held: list[float] = []
        """Times at which held entries were observed."""
        self._epoch = time.time() - time.monotonic()
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._look, args=(each,), daemon=True)
            for each in (self._look_at_redis, self._look_at_postgres)
        ]
        for thread in self._threads:
            thread.start()

    def look_again(self) -> None:
        """Wait until the current entries are observed, unless Redis is down."""
        enough = len(self.fronts) + 2
        wait_until(lambda: len(self.fronts) >= enough, 10)

    def spans_held(self) -> list[tuple[float, float]]:
        """Return the time spans in which held entries may have been acknowledged."""
        spans: list[tuple[float, float]] = []
        for moment in self.held:
            if spans and moment - spans[-1][1] <= _AROUND_SECONDS:
                spans[-1] = (spans[-1][0], moment + _AROUND_SECONDS)
            else:
                spans.append((self.oldest(moment, moment), moment + _AROUND_SECONDS))
        return spans

    def oldest(self, begin: float, end: float) -> float:
        """Return when the oldest entry was acknowledged that waited around that time."""
        begin -= _AROUND_SECONDS
        received = [
            int(entry.partition(b"-")[0]) / 1000 - self._epoch
            for moment, fronts in self.fronts
            if begin <= moment <= end
            for entry in fronts
            if entry is not None
        ]
        return min(received, default=begin) - _AROUND_SECONDS

    def stop(self) -> None:
        """Stop the threads. The observations remain."""
        self._stopping.set()
        for thread in self._threads:
            thread.join(30)

    def _look(self, look: Callable[[], None]) -> None:
        while not self._stopping.wait(_LOOK_SECONDS):
            with suppress(RedisError, psycopg.Error):
                look()

    def _look_at_redis(self) -> None:
        primary = self._service.redis_pair.primary
        with self._service.direct_redis() as client:
            while (
                not self._stopping.wait(_LOOK_SECONDS)
                and self._service.redis_pair.primary is primary
            ):
                with client.pipeline(transaction=False) as pipeline:
                    for shard in range(SHARDS):
                        pipeline.xrange(KEYS.stream(shard), count=1)
                    pipeline.hlen(KEYS.held_vaults)
                    *firsts, held = pipeline.execute()
                fronts = tuple(first[0][0] if first else None for first in firsts)
                self.fronts.append((time.monotonic(), fronts))
                if held:
                    self.held.append(time.monotonic())

    def _look_at_postgres(self) -> None:
        primary = self._service.postgres_pair.primary
        with self._service.direct_postgres(patience=1) as connection:
            seen: object = None
            while (
                not self._stopping.wait(_LOOK_SECONDS)
                and self._service.postgres_pair.primary is primary
            ):
                found = cast("object", connection.execute(_POSITIONS).fetchall())
                if found != seen:
                    self.commits.append(time.monotonic())
                seen = found
