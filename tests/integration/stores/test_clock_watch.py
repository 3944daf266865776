"""The clocks of the process and of Redis are compared even if Postgres is away."""

from contextlib import AbstractContextManager

import psycopg
import pytest
from redis import Redis

from iot_stores.clocks import ClockWatch
from iot_stores.postgres import Connection
from iot_stores.store_states import POSTGRES_UNAVAILABLE

SECONDS = 600


class Ahead(Redis):
    """A client of a Redis whose clock is ahead."""

    def time(self, **options: object) -> tuple[int, int]:
        """Return the time of Redis plus `SECONDS`."""
        seconds, micros = super().time(**options)
        return seconds + SECONDS, micros


@pytest.mark.parametrize("error", POSTGRES_UNAVAILABLE)
def test_clocks_are_compared_without_postgres(error: type[psycopg.Error], redis_url: str) -> None:
    def connect() -> AbstractContextManager[Connection]:
        raise error("it can't serve")

    with Ahead.from_url(redis_url) as client:
        watch = ClockWatch(client, connect, max_seconds=300)
        fault = watch.check()
    assert watch.skew_too_large
    assert fault == "Redis's clock is 0:10:00 ahead of this machine's clock"
