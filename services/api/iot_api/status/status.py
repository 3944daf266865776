"""The status of the whole service: what an operator looks at first.

Any API process reports on all processes, because backlog and heartbeats are in Redis. While a store
is away, its figures are left out or null. `iot_models.figures` names the metric of each figure.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from redis.exceptions import RedisError

from iot_models.errors import SettingsError, UnavailableError
from iot_stores.backlog import BacklogState
from iot_stores.dead_letter_orders import DeadLetterOrders
from iot_stores.heartbeats import TOTALS, Heartbeat, Heartbeats, read_heartbeats
from iot_stores.postgres import Pool, schema_revision
from iot_stores.readiness import Readiness
from iot_stores.store_states import POSTGRES_UNAVAILABLE, report
from iot_stores.stores import Stores

DEAD_LETTERS = 20
"""Maximum number of dead letters in the answer."""

_log = logging.getLogger(__name__)


class Status:
    """Reads the status of the service from its stores."""

    def __init__(
        self, stores: Stores, pool: Pool, readiness: Readiness, orders: DeadLetterOrders
    ) -> None:
        self._orders = orders
        self._stores = stores
        self._pool = pool
        self._readiness = readiness

    def read(self) -> dict[str, Any]:
        """Return the status, for JSON."""
        now = datetime.now(UTC)
        states = self._readiness.state()
        has_redis, has_postgres = (states[store] != "away" for store in ("redis", "postgres"))
        return {
            "time": int(now.timestamp() * 1000),
            "version": version("iot-api"),
            "stores": states,
            # Querying a store that is away would delay the answer again.
            **(self._of_redis(check_owner=has_postgres) if has_redis else {}),
            **(self._schema() if has_postgres else {}),
        }

    def _of_redis(self, *, check_owner: bool) -> dict[str, Any]:
        """Return the figures from Redis; {} if Redis can't serve.

        With `check_owner`, which needs Postgres, also return {} if Redis belongs to another
        installation.
        """
        stores = self._stores
        try:
            if check_owner:
                stores.watch.require_ownership()
            state = stores.backlog.state()
            beats = read_heartbeats(stores.redis, stores.names)
            letters = list(self._letters()) if state.dead_letters else []
        except (RedisError, UnavailableError, *POSTGRES_UNAVAILABLE) as error:
            report(_log, "the status lacks the figures of Redis", error)
            return {}
        covers = self._covers(list(state.entries))
        return {
            "rates": {rate: beats.rate(rate) for totals in TOTALS.values() for rate in totals},
            "backlog": self._backlog(state),
            "shards": _shards(state, covers, beats),
            "writers": _processes(beats, "writer", "readings_out"),
            "api_processes": _processes(beats, "api", "readings_in"),
            "dead_letters": {"count": state.dead_letters, "oldest": letters},
            "hot_window": {
                "seconds": stores.settings.hot_window_seconds,
                "covered_seconds": min(covers.values()) if covers else None,
            },
            "keys": _keys(beats),
        }

    def _backlog(self, state: BacklogState) -> dict[str, Any]:
        return {
            "bytes": state.bytes,
            "limit_bytes": self._stores.settings.backlog_max_bytes,
            "entries": sum(state.entries.values()),
            "oldest_seconds": state.oldest_seconds,
            "held_entries": state.held,
        }

    def _letters(self) -> Iterator[dict[str, Any]]:
        letters = self._stores.dead_letters.oldest(DEAD_LETTERS)
        try:
            ordered = self._orders.actions()
        except RedisError as error:  # the Redis user may have only the rights of an earlier version
            report(_log, "the status lacks the orders for dead letters", error)
            ordered = {}
        for letter in letters:
            yield {
                "id": letter.letter_id,
                "time": int(letter.letter_id.partition("-")[0]),
                "shard": letter.shard,
                "reason": letter.reason,
                "ordered": ordered.get(letter.letter_id),
            }

    def _covers(self, shards: Sequence[int]) -> dict[int, float] | None:
        """Return, by shard, for how many seconds back the hot window has every reading.

        Return None while the hot window's Redis is away.
        """
        try:
            return self._stores.hot_window.covers(shards)
        except (RedisError, UnavailableError) as error:
            report(_log, "the status lacks the hot window", error)
            return None

    def _schema(self) -> dict[str, Any]:
        try:
            found = self._pool.run_idempotent(schema_revision)
        except (UnavailableError, SettingsError, *POSTGRES_UNAVAILABLE) as error:
            report(_log, "the status lacks the schema", error)
            return {}
        return {"schema": {"revision": found}}


def _shards(
    state: BacklogState, covers: Mapping[int, float] | None, beats: Heartbeats
) -> list[dict[str, Any]]:
    last_drains = _last_drains(beats.latest("writer"))
    shards = []
    for shard, entries in state.entries.items():
        drained_at, writer = last_drains.get(shard, (None, None))
        shards.append(
            {
                "shard": shard,
                "entries": entries,
                "oldest_seconds": state.ages[shard],
                "drained_by": writer,
                "drained_seconds": None if drained_at is None else _seconds_ago(beats, drained_at),
                "hot_window_seconds": None if covers is None else covers.get(shard),
            }
        )
    return shards


def _seconds_ago(beats: Heartbeats, at: float) -> float:
    return max(0.0, (beats.now - at) / 1000)


def _last_drains(writers: Iterable[Heartbeat]) -> dict[int, tuple[float, str]]:
    """Return by shard the last drain of a running writer: its time (Unix ms), the writer's name."""
    last: dict[int, tuple[float, str]] = {}
    for writer in writers:
        for shard, at in writer.drained_at.items():
            last[shard] = max(last.get(shard, (0.0, "")), (at, writer.process))
    return last


def _processes(beats: Heartbeats, service: str, rate: str) -> list[dict[str, Any]]:
    return [
        {
            "name": beat.process,
            "heartbeat_seconds": _seconds_ago(beats, beat.at),
            rate: beats.rate(rate, beat.process),
        }
        for beat in beats.latest(service)
    ]


def _keys(beats: Heartbeats) -> list[dict[str, Any]]:
    """Return the state of each loaded master key.

    `primary`: all API processes have it as their primary key. `api` and `writers`: all API
    processes, or all writers, have loaded it. `primary` and `api` are None if no API process runs,
    `writers` is None if no writer runs.
    """
    api, writers = beats.latest("api"), beats.latest("writer")
    return [
        {
            "id": key,
            "primary": all(beat.primary_key == key for beat in api) if api else None,
            "api": all(key in beat.keys for beat in api) if api else None,
            "writers": all(key in beat.keys for beat in writers) if writers else None,
        }
        for key in sorted({key for beat in (*api, *writers) for key in beat.keys})
    ]
