"""The watch: sees, past every bad network, when something is committed and what waits."""

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
"""More than between two looks, and than a request takes, as a rule."""
_POSITIONS = "SELECT shard, position FROM ingest_offsets ORDER BY shard"

Fronts = tuple[bytes | None, ...]


class Watch:
    """Looks at both stores, in a thread each, until stopped."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self.commits: list[float] = []
        """When a drain was seen to have committed."""
        self.fronts: list[tuple[float, Fronts]] = []
        """Each shard's oldest waiting entry, over time."""
        self.held: list[float] = []
        """When entries were seen to be held."""
        self._epoch = time.time() - time.monotonic()
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._look, args=(each,), daemon=True)
            for each in (self._look_at_redis, self._look_at_postgres)
        ]
        for thread in self._threads:
            thread.start()

    def look_again(self) -> None:
        """Return when what waits now was seen, unless Redis is away."""
        enough = len(self.fronts) + 2
        wait_until(lambda: len(self.fronts) >= enough, 10)

    def spans_held(self) -> list[tuple[float, float]]:
        """From when to when entries that were held may have been acknowledged."""
        spans: list[tuple[float, float]] = []
        for moment in self.held:
            if spans and moment - spans[-1][1] <= _AROUND_SECONDS:
                spans[-1] = (spans[-1][0], moment + _AROUND_SECONDS)
            else:
                spans.append((self.oldest(moment, moment), moment + _AROUND_SECONDS))
        return spans

    def oldest(self, begin: float, end: float) -> float:
        """When the oldest entry was acknowledged that was seen waiting around that time."""
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
        """End it; what was seen stays."""
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
