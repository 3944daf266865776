"""Fixtures with apps on the stores of a test."""

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from integration.api.asking import Api
from iot_api.app import create_app
from iot_api.limits.rate_limit import RateLimit
from iot_api.vaults import change_follower
from iot_models.segment import decode_segment
from iot_models.settings import Settings, load
from iot_tools.local.postgres_server import PostgresServer
from iot_writer.schema import migrate
from iot_writer.writer import Writer
from support.clock import Clock

MakeApi = Callable[..., Api]


@pytest.fixture(autouse=True)
def early_announcements(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let requests that change a vault wait for other processes for 0.1 s instead of 1 s.

    The processes of these tests are apps in one process, which read announcements in time.
    """
    monkeypatch.setattr(change_follower, "FOLLOW_SECONDS", 0.05)
    monkeypatch.setattr(change_follower, "ANNOUNCED_SECONDS", 0.1)


@pytest.fixture
def make_api(settings: Settings) -> Iterator[MakeApi]:
    """A function that makes apps on the empty stores; each app acts as one more API process."""
    with ExitStack() as opened:

        def make(**changes: Any) -> Api:
            app = create_app(dataclasses.replace(settings, **changes))
            opened.callback(app.extensions["iot"].close)
            return Api(app)

        yield make


@pytest.fixture
def api(make_api: MakeApi) -> Api:
    """The API in this process."""
    return make_api()


@pytest.fixture
def rate_clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of all rate limits, 10 seconds into a minute: the limits count by the minute."""
    clock = Clock(60_000_010.0 - 60_000_010 % 60 + 10)
    made = RateLimit.__init__

    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        made(self, *args, **kwargs, now=clock)

    monkeypatch.setattr(RateLimit, "__init__", init)
    return clock


@pytest.fixture
def own_postgres(tmp_path: Path) -> Iterator[PostgresServer]:
    """A separate, migrated PostgreSQL that the test may stop."""
    server = PostgresServer(tmp_path / "postgres", settings={"fsync": "off"})
    server.start()
    migrate(server.url)
    yield server
    server.stop()


@pytest.fixture(scope="module")
def module_api(module_environment: dict[str, str]) -> Iterator[Api]:
    """The API in this process, for the tests of one module."""
    app = create_app(load(module_environment))
    yield Api(app)
    app.extensions["iot"].close()


@pytest.fixture(scope="module")
def module_writer(module_environment: dict[str, str]) -> Iterator[Writer]:
    """A writer in this process that stores the readings of `module_api`."""
    made = Writer(load(module_environment))
    yield made
    made.close()


@pytest.fixture(scope="module")
def module_redis(module_environment: dict[str, str]) -> Iterator["Redis"]:
    """A client of the Redis that `module_api` uses."""
    with Redis.from_url(module_environment["IOT_REDIS_URL"]) as client:
        yield client


@pytest.fixture
def opened_segments(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of readings of each opened segment."""
    counts: list[int] = []

    def decode(bounds: Any, data: bytes) -> Any:
        counts.append(bounds.count)
        return decode_segment(bounds, data)

    monkeypatch.setattr("iot_api.query.readings.decode_segment", decode)
    return counts
