"""Clock skew between this process, Redis and Postgres.

The clock of Redis sets the time of receipt of readings. The clocks of this process and of Postgres
show whether the clock of Redis is wrong. Deletions use the earliest of the three times.
"""

import logging
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import cast

from redis import Redis

from .postgres import Connection
from .redis_client import milliseconds
from .store_states import POSTGRES_UNAVAILABLE

WARNING_SECONDS = 10.0
"""Clock skew of more than this is reported."""

_POSTGRES_TIME = "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::int8"

_log = logging.getLogger(__name__)


def postgres_now(connection: Connection) -> int:
    """Return the time of Postgres, in Unix milliseconds."""
    row = connection.execute(_POSTGRES_TIME).fetchone()
    return cast("tuple[int]", row)[0]


def redis_ahead(client: "Redis") -> float:
    """Return how many seconds Redis's clock is ahead of this process's clock; negative: behind.

    The real difference may be larger, by up to one round trip.
    """
    return _minimum_skew(lambda: milliseconds(client.time()))


def postgres_ahead(connection: Connection) -> float:
    """Return how many seconds Postgres's clock is ahead of this process's clock; negative: behind.

    The real difference may be larger, by up to one round trip.
    """
    return _minimum_skew(lambda: postgres_now(connection))


def _minimum_skew(read_clock: Callable[[], int]) -> float:
    # The remote clock was read at an unknown moment between the two local times. Only a remote time
    # outside this interval is skew, so a slow network never makes the skew larger.
    sent = int(time.time() * 1000)
    remote = read_clock()
    received = int(time.time() * 1000)
    return (remote - min(max(remote, sent), received)) / 1000


def earliest_now(redis_now: int, connection: Connection) -> int:
    """Return the earliest time by the clocks of this process, Redis and Postgres.

    All times are in Unix milliseconds; `redis_now` is the time of Redis. Deletions use the earliest
    time, so a clock that is ahead deletes nothing early.
    """
    own, postgres = int(time.time() * 1000), postgres_now(connection)
    earliest = min(own, redis_now, postgres)
    if max(own, redis_now, postgres) - earliest > WARNING_SECONDS * 1000:
        _log.warning(
            "clock skew: Redis's clock is %s this machine's clock, and Postgres's clock is %s this "
            "machine's clock; deletions use the earliest of the three clocks",
            describe((redis_now - own) / 1000), describe((postgres - own) / 1000),
        )  # fmt: skip
    return earliest


@dataclass(frozen=True, slots=True)
class ClockSkew:
    """Seconds by which the clocks of Redis and Postgres are ahead of this process's clock."""

    redis: float
    postgres: float | None
    """None: the clock of Postgres is unknown."""

    def fault(self, max_seconds: float) -> str | None:
        """Return a text that names the wrong clock; None if no skew exceeds `max_seconds`.

        If two clocks agree, the third one is wrong. If no two agree, the text says so. Without the
        clock of Postgres, the text compares the other two.
        """
        redis, postgres = describe(self.redis), describe(self.postgres or 0.0)
        if abs(self.redis) <= max_seconds:
            if self.postgres is None or abs(self.postgres) <= max_seconds:
                return None
            return f"Postgres's clock is {postgres} the clocks of this machine and Redis"
        if self.postgres is None:
            return f"Redis's clock is {redis} this machine's clock"
        if abs(self.postgres) <= max_seconds:
            return f"Redis's clock is {redis} the clocks of this machine and Postgres"
        if abs(self.redis - self.postgres) <= max_seconds:
            own = describe(-self.redis)
            return f"this machine's clock is {own} the clocks of Redis and Postgres"
        return (
            f"the clocks of this machine, Redis and Postgres all differ: Redis's clock is {redis} "
            f"this machine's clock, and Postgres's clock is {postgres} this machine's clock"
        )

    def exceeds(self, max_seconds: float) -> bool:
        """Return whether the clocks of this process and Redis differ too much to accept readings.

        Postgres's clock does not count: no reading gets its time from Postgres.
        """
        return abs(self.redis) > max_seconds


def describe(ahead: float) -> str:
    """Return a skew as text, for example `61 days, 0:00:00 behind`."""
    return f"{timedelta(seconds=round(abs(ahead)))} {'behind' if ahead < 0 else 'ahead of'}"


class ClockWatch:
    """Compares the clocks. Logs when clocks begin to differ and when they agree again."""

    def __init__(
        self,
        client: "Redis",
        connect: Callable[[], AbstractContextManager[Connection]],
        *,
        max_seconds: float,
    ) -> None:
        """`connect` opens a connection to Postgres, or raises one of `POSTGRES_UNAVAILABLE`.

        Postgres is queried only if the clocks of this process and Redis differ by more than
        `WARNING_SECONDS`: the clock of Postgres shows which of the two is wrong. With a skew above
        `max_seconds` between this process and Redis, the process is not ready.
        """
        self._client = client
        self._connect = connect
        self._max_seconds = max_seconds
        self._reported: str | None = None
        self.skew_too_large = False
        """Whether clock skew makes this process not ready."""
        self.redis_ahead = 0.0
        """Skew of the clock of Redis at the last check, in seconds."""

    def check(self, postgres: float | None = None) -> str | None:
        """Compare the clocks. Return a text that names the wrong clock; None if no clock is wrong.

        `postgres` is the skew of the clock of Postgres in seconds, if the caller has measured it.

        Raises:
            RedisError: Redis is away.
        """
        self.redis_ahead = redis_ahead(self._client)
        if postgres is None and abs(self.redis_ahead) > WARNING_SECONDS:
            with suppress(*POSTGRES_UNAVAILABLE), self._connect() as connection:
                postgres = postgres_ahead(connection)
        skew = ClockSkew(self.redis_ahead, postgres)
        self.skew_too_large = skew.exceeds(self._max_seconds)
        fault = skew.fault(min(self._max_seconds, WARNING_SECONDS))
        self._log(fault)
        return fault

    def _log(self, fault: str | None) -> None:
        # Without the amount, which changes from check to check.
        kind = fault and f"{self.skew_too_large} {fault.partition(' clock is ')[0]}"
        if kind == self._reported:
            return
        self._reported = kind
        if fault is None:
            _log.warning("the clocks agree again")
        elif self.skew_too_large:
            _log.error("not ready: %s; synchronize the clocks (NTP)", fault)
        else:
            _log.warning("%s; synchronize the clocks (NTP)", fault)
