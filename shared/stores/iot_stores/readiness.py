"""Readiness: whether this process can do its work now."""

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager

from redis.exceptions import RedisError

from iot_models.errors import SettingsError

from .clocks import ClockWatch, postgres_ahead
from .installation import Installation
from .postgres import AWAY, Connection, check_schema, check_writable
from .redis_watch import RedisWatch
from .store_states import public_state, report

_log = logging.getLogger(__name__)


class Readiness:
    """Redis must be fit and take what this process writes, its clock and this process's must agree,
    and the database's schema must have been seen to be known, once.

    After that Postgres may go away: the backlog holds what comes in.
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
        """`try_redis` raises what Redis answers to a write like those of this process.

        `connect` lends a connection, or raises one of `AWAY` in a few seconds.

        `hot_window` is its own Redis, if it has one: mentioned, but not needed. With `ask_once`,
        Postgres is left alone as soon as the schema was seen.
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
        """What there is to say of each part: `ok`, or what is wrong with it. Of the clocks only
        what is wrong.
        """
        postgres = self._postgres()  # first: it tells whose Redis must be
        state = {"redis": self._redis_state(), "postgres": postgres}
        if self._hot_window is not None:
            state["hot_window"] = self._hot_window.state()
        fault = self._clock_fault() if state["redis"] == "ok" else None
        return state | {"clocks": fault} if fault else state

    def ready(self, state: dict[str, str]) -> bool:
        """Whether the work can be done, the parts being as `state` says."""
        return state["redis"] == "ok" and self._schema_seen and not self._clocks.skew_too_large

    def _clock_fault(self) -> str | None:
        try:
            return self._clocks.check(self._postgres_ahead)
        except RedisError as error:
            report(_log, "the clocks are not compared", error)
            return None

    def _postgres(self) -> str:
        self._postgres_ahead = None
        if self._schema_seen and self._ask_once:
            return "ok when asked last"
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
        except AWAY as error:
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
