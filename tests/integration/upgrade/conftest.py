"""Stores that an earlier version left behind, migrated by this version."""

import os
from collections.abc import Iterator

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from redis import Redis

from iot_tools.local.postgres_server import PostgresServer
from iot_writer.schema import migrate
from support.recorded_version import FIXTURES, RecordedVersion

DATABASE = "recorded"


@pytest.fixture(scope="session")
def recorded() -> RecordedVersion:
    """The recording of version 0.1."""
    return RecordedVersion(FIXTURES / "version_0_1")


@pytest.fixture
def empty_postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    """A database without any table."""
    with psycopg.connect(postgres_server.url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {DATABASE}")
        yield make_conninfo(postgres_server.url, dbname=DATABASE)
        connection.execute(f"DROP DATABASE {DATABASE} WITH (FORCE)")


@pytest.fixture
def restored_postgres_url(recorded: RecordedVersion, empty_postgres_url: str) -> str:
    """The recorded database, not yet migrated."""
    recorded.restore_postgres(empty_postgres_url)
    return empty_postgres_url


@pytest.fixture
def environment(
    recorded: RecordedVersion, redis_url: str, restored_postgres_url: str
) -> dict[str, str]:
    """The environment of processes of this version, on the recorded and migrated stores."""
    with Redis.from_url(redis_url) as client:
        recorded.restore_redis(client)
    migrate(restored_postgres_url)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("IOT_")}
    return kept | {
        "IOT_REDIS_URL": redis_url,
        "IOT_POSTGRES_URL": restored_postgres_url,
        "IOT_KEYRING_FILE": str(recorded.keyring_file),
        "IOT_COMPACTION_AFTER_SECONDS": "0",
        "IOT_HOT_WINDOW_SECONDS": "0",
    }
