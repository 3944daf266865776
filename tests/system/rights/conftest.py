"""The service with one user for each component."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.environment import environment_without_settings
from support.stack import Stack
from system.rights.stores import Database, RedisWithUsers, servers


@pytest.fixture(params=servers())
def redis_users(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RedisWithUsers]:
    """Each available Redis server, with the users of production."""
    server = RedisWithUsers(tmp_path / "redis", servers()[request.param])
    yield server
    server.stop()


@pytest.fixture
def empty_database(empty_url: str) -> Database:
    """An empty database without roles."""
    return Database(empty_url)


@pytest.fixture
def rights_environment(keyring_file: Path) -> dict[str, str]:
    """Settings of every process."""
    return environment_without_settings() | {
        "IOT_KEYRING_FILE": str(keyring_file),
        "IOT_SCRYPT_LOG2_N": "10",
        "IOT_COMPACTION_AFTER_SECONDS": "0",
        "IOT_GUESS_LIMIT": "3",
        "IOT_RETENTION_DAYS": "40",
    }


@pytest.fixture
def database(empty_database: Database) -> Database:
    """A database with the roles and the schema."""
    empty_database.create_roles()
    empty_database.migrate()
    return empty_database


@pytest.fixture
def rights_stack(
    database: Database,
    redis_users: RedisWithUsers,
    rights_environment: dict[str, str],
    tmp_path: Path,
) -> Iterator[Stack]:
    """The API and a writer, each with its own user in both stores."""
    with stack_of_users(database, redis_users, rights_environment, tmp_path) as stack:
        yield stack


@contextmanager
def stack_of_users(
    database: Database,
    redis_users: RedisWithUsers,
    rights_environment: dict[str, str],
    tmp_path: Path,
) -> Iterator[Stack]:
    """Run the API and a writer, and check that Redis refused no command."""
    api = {
        "IOT_POSTGRES_URL": database.url("iot_api"),
        "IOT_REDIS_URL": redis_users.url("iot_api"),
    }
    stack = Stack({**rights_environment, **api}, tmp_path, metrics=True)
    stack.writer_environment = {
        "IOT_POSTGRES_URL": database.url("iot_writer"),
        "IOT_REDIS_URL": redis_users.url("iot_writer"),
    }
    try:
        stack.start_api()
        stack.start_writer()
        yield stack
        assert redis_users.denied() == []
    finally:
        stack.stop()
