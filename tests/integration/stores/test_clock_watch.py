"""Clocks are compared whatever Postgres answers."""

from contextlib import AbstractContextManager

import psycopg
import pytest
from redis import Redis

from iot_stores.clocks import ClockWatch
from iot_stores.postgres import AWAY, Connection

SECONDS = 600


class Ahead(Redis):
    """A client that gives Redis's time as if Redis's clock were ahead."""

    def time(self, **options: object) -> tuple[int, int]:
        """Redis's time, and `SECONDS`."""
        seconds, micros = super().time(**options)
        return seconds + SECONDS, micros


@pytest.mark.parametrize("error", AWAY)
def test_without_postgres(error: type[psycopg.Error], redis_url: str) -> None:
    def connect() -> AbstractContextManager[Connection]:
        raise error("it can't serve")

    with Ahead.from_url(redis_url) as client:
        watch = ClockWatch(client, connect, max_seconds=300)
        fault = watch.check()
    assert watch.skew_too_large
    assert fault == "Redis's clock is 0:10:00 ahead of this machine's clock"
