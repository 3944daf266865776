"""Databases with histories, created once for all tests that only read."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace

import psycopg
import pytest

from integration.growth.histories import Shape, fill, vacuum
from integration.writer.sending import Sender, sending
from iot_models.settings import load
from iot_stores.postgres import Connection
from iot_tools.local.postgres_server import PostgresServer
from support.databases import TEMPLATE, database_url

BASE = Shape()
SHAPES = {
    "base": BASE,
    "others": replace(BASE, others=400),
    "own": replace(BASE, others=200, segments=2000),
    "months": replace(BASE, months=12),
    "new": replace(BASE, others=200, segments=500),
}
"""`new` was never analyzed."""

Histories = Callable[[str], Connection]
Sending = Callable[[Mapping[str, str]], Sender]


@pytest.fixture(scope="session")
def history_of(postgres_server: PostgresServer) -> Iterator[Histories]:
    """A function that returns a connection to the history with a name in `SHAPES`."""
    made: dict[str, Connection] = {}

    def get(name: str) -> Connection:
        if name not in made:
            database = f"growth_{name}"
            with psycopg.connect(postgres_server.url, autocommit=True) as connection:
                connection.execute(f"CREATE DATABASE {database} TEMPLATE {TEMPLATE}")
            url = database_url(postgres_server.url, database)
            made[name] = psycopg.connect(url, autocommit=True)
            made[name].prepare_threshold = None
            fill(made[name], SHAPES[name])
            if name != "new":
                vacuum(url)
        return made[name]

    yield get
    for connection in made.values():
        connection.close()


@pytest.fixture
def sending_on() -> Iterator[Sending]:
    """A function that makes a `Sender` from settings."""
    with ExitStack() as stack:
        yield lambda environment: stack.enter_context(sending(load(environment)))
