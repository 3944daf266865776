"""Readiness: whether this process can do its work now (`/readyz`)."""

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager

from redis.exceptions import RedisError

from iot_models.errors import SettingsError

from .clocks import ClockWatch, postgres_ahead
from .installation import Installation
from .postgres import Connection, check_schema, check_writable
from .redis_watch import RedisWatch
from .store_states import POSTGRES_UNAVAILABLE, public_state, report

_log = logging.getLogger(__name__)


class Readiness:
    """The readiness of a process. A process is ready if all of these hold:

    - Redis belongs to the installation, has safe settings (AOF, no eviction; see `redis_watch`),
      and accepts the writes of this process.
    - The clocks of this process and Redis agree.
    - When Postgres last answered, the database had a schema that this code works with, and an
      installation id. For API processes, it had no mark of another keyring. Postgres may be away
      now, because the backlog keeps new readings.
    """

    def __init__(
        self,
        redis: RedisWatch,
        try_redis: Callable[[], object],
        installation: Installation,
        connect: Callable[[], AbstractContextManager[Connection]],
        *,
        hot_window: RedisWatch | None = None,
        ask_once: bool = False,
        clocks: ClockWatch,
    ) -> None:
        """`try_redis` tries a write command that this process needs, and raises Redis's error.

        `connect` opens a connection, or raises one of `POSTGRES_UNAVAILABLE` within a few seconds.

        `hot_window` watches the hot window's own Redis, whose state is reported, but does not
        affect readiness. With `ask_once`, Postgres is not queried again once the schema was right.
        """
        self._hot_window = hot_window
        self._redis = redis
        self._try_redis = try_redis
        self._installation = installation
        self._connect = connect
        self._ask_once = ask_once
        self._schema_seen = False
        self._clocks = clocks
        self._postgres_ahead: float | None = None

    def state(self) -> dict[str, str]:
        """Check every store. Return `ok` or a fault for each; report clocks only if they differ."""
        # Postgres comes first: the check of Redis compares Redis's mark with the id in Postgres.
        postgres = self._postgres()
        state = {"redis": self._redis_state(), "postgres": postgres}
        if self._hot_window is not None:
            state["hot_window"] = self._hot_window.state()
        fault = self._clock_fault() if state["redis"] == "ok" else None
        return state | {"clocks": fault} if fault else state

    def ready(self, state: dict[str, str]) -> bool:
        """Return whether the process can do its work, given the result of `state`."""
        return state["redis"] == "ok" and self._schema_seen and not self._clocks.skew_too_large

    def _clock_fault(self) -> str | None:
        try:
            return self._clocks.check(self._postgres_ahead)
        except RedisError as error:
            report(_log, "clocks are not compared", error)
            return None

    def _postgres(self) -> str:
        self._postgres_ahead = None
        if self._schema_seen and self._ask_once:
            return "ok at the last check"
        try:
            with self._connect() as connection:
                check_schema(connection)
                self._schema_seen = True
                self._postgres_ahead = postgres_ahead(connection)
                self._installation.refresh(connection)
                check_writable(connection)
        except SettingsError as error:
            self._schema_seen = False
            return str(error)
        except POSTGRES_UNAVAILABLE as error:
            return public_state(_log, "Postgres", error)
        return "ok"

    def _redis_state(self) -> str:
        state = self._redis.state()
        if state != "ok":
            return state
        try:
            self._try_redis()
        except RedisError as error:
            return public_state(_log, "Redis", error)
        return "ok"
