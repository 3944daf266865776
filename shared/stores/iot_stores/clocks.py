"""Clocks: how far this process's clock, Redis's and Postgres's are apart, and which one is wrong.

Redis's clock stamps readings, and their age is judged by it. The other two tell when it is wrong.
No reading depends on this process's clock.
"""

import logging
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import cast

from redis import Redis

from .postgres import AWAY, Connection
from .redis_client import milliseconds

WARNING_SECONDS = 10.0
"""From so much on, a difference is reported."""

_POSTGRES_TIME = "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::int8"

_log = logging.getLogger(__name__)


def postgres_now(connection: Connection) -> int:
    """Unix milliseconds of Postgres's clock."""
    row = connection.execute(_POSTGRES_TIME).fetchone()
    return cast("tuple[int]", row)[0]


def redis_ahead(client: "Redis") -> float:
    """Seconds that Redis's clock is ahead of this process's, at least; below 0 it is behind."""
    return _ahead(lambda: milliseconds(client.time()))


def postgres_ahead(connection: Connection) -> float:
    """Seconds that Postgres's clock is ahead of this process's, at least; below 0 it is behind."""
    return _ahead(lambda: postgres_now(connection))


def _ahead(ask: Callable[[], int]) -> float:
    """The difference to an answer that may have been given at any moment between question and
    receipt. So a slow network makes it smaller, and never larger.
    """
    asked = int(time.time() * 1000)
    answer = ask()
    received = int(time.time() * 1000)
    return (answer - min(max(answer, asked), received)) / 1000


def earliest_now(redis_now: int, connection: Connection) -> int:
    """The time to delete by, in Unix milliseconds: by that of the three clocks which is furthest
    behind. So a clock that is ahead deletes nothing early.
    """
    own, postgres = int(time.time() * 1000), postgres_now(connection)
    earliest = min(own, redis_now, postgres)
    if max(own, redis_now, postgres) - earliest > WARNING_SECONDS * 1000:
        _log.warning(
            "nothing is deleted early, but the clocks differ: Redis's is %s and Postgres's is %s",
            describe((redis_now - own) / 1000), describe((postgres - own) / 1000),
        )  # fmt: skip
    return earliest


@dataclass(frozen=True, slots=True)
class ClockSkew:
    """How many seconds Redis's and Postgres's clocks are ahead of this process's."""

    redis: float
    postgres: float | None
    """None: not known."""

    def fault(self, most: float) -> str | None:
        """A sentence that says which clock is more than `most` seconds off; None if none is.

        The clock that two others contradict is the wrong one.
        """
        redis, postgres = describe(self.redis), describe(self.postgres or 0.0)
        if abs(self.redis) <= most:
            if self.postgres is None or abs(self.postgres) <= most:
                return None
            return f"Postgres's clock is {postgres} those of this machine and of Redis"
        if self.postgres is None:
            return f"Redis's clock is {redis} that of this machine"
        if abs(self.postgres) <= most:
            return f"Redis's clock is {redis} those of this machine and of Postgres"
        if abs(self.redis - self.postgres) <= most:
            own = describe(-self.redis)
            return f"this machine's clock is {own} those of Redis and of Postgres"
        return (
            f"the clocks of this machine, Redis and Postgres all differ: Redis's is {redis} this "
            f"machine's, Postgres's is {postgres} it"
        )

    def exceeds(self, most: float) -> bool:
        """Whether a process should take no readings: its clock or Redis's is more than `most`
        seconds off. Postgres's stamps no readings.
        """
        return abs(self.redis) > most


def describe(ahead: float) -> str:
    """A difference between clocks for people, like `61 days, 0:00:00 behind`."""
    return f"{timedelta(seconds=round(abs(ahead)))} {'behind' if ahead < 0 else 'ahead of'}"


class ClockWatch:
    """Compares the clocks when it is asked to; logs when they begin to differ, and when they agree
    again.
    """

    def __init__(
        self,
        client: "Redis",
        connect: Callable[[], AbstractContextManager[Connection]],
        *,
        max_seconds: float,
    ) -> None:
        """`connect` lends a connection to Postgres, or raises one of `AWAY`.

        It is used only when this process's clock and Redis's differ: Postgres tells which is wrong.
        """
        self._client = client
        self._connect = connect
        self._most = max_seconds
        self._reported: str | None = None
        self.skew_too_large = False
        """Whether the process is not ready because of its clock, or of Redis's."""
        self.redis_ahead = 0.0
        """As of the last look."""

    def check(self, postgres: float | None = None) -> str | None:
        """Say which clock is wrong; None if none is. `postgres` is how far Postgres's is ahead, if
        that is known already.

        Raises:
            RedisError: Redis is away.
        """
        self.redis_ahead = redis_ahead(self._client)
        if postgres is None and abs(self.redis_ahead) > WARNING_SECONDS:
            with suppress(*AWAY), self._connect() as connection:
                postgres = postgres_ahead(connection)
        skew = ClockSkew(self.redis_ahead, postgres)
        self.skew_too_large = skew.exceeds(self._most)
        fault = skew.fault(min(self._most, WARNING_SECONDS))
        self._log(fault)
        return fault

    def _log(self, fault: str | None) -> None:
        kind = fault and f"{self.skew_too_large} {fault.partition(' clock is ')[0]}"
        if kind == self._reported:
            return
        self._reported = kind
        if fault is None:
            _log.warning("the clocks agree again")
        elif self.skew_too_large:
            _log.error("not ready: %s; correct it (NTP)", fault)
        else:
            _log.warning("%s; correct it (NTP)", fault)
