"""Stores of an earlier version, migrated by this version."""

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest
from redis import Redis

from iot_cipher.vault import password_key
from iot_models.settings import Settings
from iot_tools.local.child import Program
from iot_tools.local.redis_server import RedisServer
from iot_writer.schema import migrate
from support.environment import environment_without_settings
from support.recorded_version import FIXTURES, RecordedVersion
from support.redis_programs import other_programs

SERVERS = other_programs()


class ChosenRedisServer(RedisServer):
    """A server with a given binary."""

    def __init__(
        self, directory: Path, binary: Path, *, config: Sequence[str] = (), port: int | None = None
    ) -> None:
        super().__init__(directory, config=config, port=port)
        self._binary = binary

    def _prepare(self) -> Program:
        program = super()._prepare()
        return dataclasses.replace(program, arguments=[str(self._binary), *program.arguments[1:]])


@contextmanager
def running_server(name: str, directory: Path) -> Iterator[RedisServer]:
    """Run a server of `SERVERS`, or that of the system for any other name."""
    binary = SERVERS.get(name)
    made = RedisServer(directory) if binary is None else ChosenRedisServer(directory, binary)
    made.start()
    try:
        yield made
    finally:
        made.stop()


@pytest.fixture(scope="session")
def recorded(request: pytest.FixtureRequest) -> RecordedVersion:
    """The recording of version 0.1, or of the directory that the test names."""
    return RecordedVersion(FIXTURES / getattr(request, "param", "version_0_1"))


@pytest.fixture
def restored_postgres_url(recorded: RecordedVersion, empty_url: str) -> str:
    """The recorded database, not yet migrated."""
    recorded.restore_postgres(empty_url)
    return empty_url


@pytest.fixture
def environment(
    recorded: RecordedVersion, redis_url: str, restored_postgres_url: str
) -> dict[str, str]:
    """The environment of processes of this version, on the recorded and migrated stores."""
    with Redis.from_url(redis_url) as client:
        recorded.restore_redis(client)
    migrate(restored_postgres_url)
    return environment_without_settings() | {
        "IOT_REDIS_URL": redis_url,
        "IOT_POSTGRES_URL": restored_postgres_url,
        "IOT_KEYRING_FILE": str(recorded.keyring_file),
        "IOT_COMPACTION_AFTER_SECONDS": "0",
        "IOT_HOT_WINDOW_SECONDS": "0",
    }


@pytest.fixture(params=list(SERVERS))
def settings_of_server(
    request: pytest.FixtureRequest, recorded: RecordedVersion, settings: Settings, tmp_path: Path
) -> Iterator[Settings]:
    """Settings of this version on the recorded stores, with Redis on another server."""
    server = ChosenRedisServer(tmp_path / "redis", SERVERS[request.param])
    server.start()
    with Redis.from_url(server.url) as client:
        recorded.restore_redis(client)
    yield dataclasses.replace(settings, redis_url=server.url)
    server.stop()


@pytest.fixture(scope="session", autouse=True)
def each_scrypt_once() -> Iterator[None]:
    """Compute each key in this process once: the recorded vaults have the full cost of scrypt."""
    once = cache(password_key)
    with pytest.MonkeyPatch.context() as patch:
        for module in ("iot_cipher.vault", "iot_api.vaults.scrypt_threads"):
            patch.setattr(f"{module}.password_key", once)
        yield
