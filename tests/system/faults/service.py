"""The service under test: real processes that are restarted, and a network with faults."""

import shutil
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import psycopg
from redis import Redis

from iot_cipher.keyring import create_keyring_file
from iot_tools.local.child import Child, wait_until
from iot_tools.local.launcher import Launcher, environment_with
from iot_tools.local.ports import free_port
from iot_writer.schema import migrate
from support.fork_server import ForkingLauncher
from support.processes import api_workers
from support.shifted_clock import ShiftedClock
from system.faults.alerts import scrape
from system.faults.asking import ask
from system.faults.keeper import Keeper, keep
from system.faults.postgres_pair import PostgresPair
from system.faults.proxy import Proxy
from system.faults.redis_pair import RedisPair
from system.faults.small_disk import SmallDisk

API_WORKERS = 2
WRITERS = 2
SHARDS = 8
_SECOND_DATABASE = "second_release"
_NOTICE_SECONDS = 15.0


def can_shift_clocks() -> bool:
    """Return whether this machine has a C compiler, which wrong clocks need."""
    return shutil.which("cc") is not None


class Service:
    """All processes with their keepers, and the proxies in front of the stores."""

    def __init__(
        self,
        folder: Path,
        stack: ExitStack,
        disks: Sequence[SmallDisk],
        *,
        metrics: bool = False,
        forked: bool = False,
    ) -> None:
        """`metrics`: let Prometheus scrape the API, if it is installed.

        `forked`: fork API and writers from fork servers.
        """
        self.folder = folder
        self.port, self._metrics_port = free_port(), free_port()
        self.alerts = scrape(self._metrics_port, folder, stack) if metrics else None
        """None without Prometheus."""
        self.redis_pair = RedisPair(folder, stack)
        self.postgres_pair = PostgresPair(folder, stack, disks)
        self.to_redis = stack.enter_context(Proxy(self.redis_pair.primary.port))
        self.to_postgres = stack.enter_context(Proxy(self.postgres_pair.primary.port or 0))
        if disks:
            self._keep_tables_on(disks[0])
        migrate(self.postgres_url)
        with self.direct_postgres() as connection:
            connection.execute(f"CREATE DATABASE {_SECOND_DATABASE}".encode())
        migrate(self.second_postgres_url)
        self.clocks: dict[str, ShiftedClock] = {}
        """Clocks by process name, empty without a C compiler."""
        self._launcher = ForkingLauncher if forked else Launcher
        launcher = self._launcher(self._environment(folder / "keyring.json"), folder)
        self.writers = [
            keep(stack, name, launcher.writer(name=name, variables=self._clock(name)))
            for name in (f"writer-{number}" for number in range(WRITERS))
        ]
        api = launcher.api(ready=self._has_all_workers, variables=self._clock("api"))
        self.api = keep(stack, "api", api)

    @property
    def redis(self) -> Keeper:
        """The keeper of the Redis primary."""
        return self.redis_pair.keeper

    @property
    def postgres(self) -> Keeper:
        """The keeper of the Postgres primary."""
        return self.postgres_pair.keeper

    @property
    def redis_url(self) -> str:
        """The URL of Redis without the proxy."""
        return self.redis_pair.primary.url

    @property
    def postgres_url(self) -> str:
        """The URL of Postgres without the proxy."""
        return self.postgres_pair.primary.url

    @property
    def second_postgres_url(self) -> str:
        """The URL of the second release's database."""
        return urlunsplit(urlsplit(self.postgres_url)._replace(path=f"/{_SECOND_DATABASE}"))

    @property
    def disk(self) -> SmallDisk | None:
        """The disk that holds the tables."""
        return self.postgres_pair.primary.disk

    def wait_ready(self, patience: float = 60.0) -> None:
        """Wait until every part is ready."""
        for keeper in (self.redis, self.postgres, self.api, *self.writers):
            keeper.wait_ready(patience)

    def wait_unready(self, word: str) -> None:
        """Wait until the API is not ready with a reason that contains `word`. Raise `TimeoutError`
        after a timeout.
        """

        def is_unready() -> bool:
            status, content = ask(self.port, "GET", "/readyz")
            return status == 503 and word.encode() in content

        if not wait_until(is_unready, _NOTICE_SECONDS, interval=0.1):
            raise TimeoutError(f"/readyz does not become 503 with the reason {word}")

    def direct_redis(self, timeout: float = 5.0) -> "Redis":
        """Return a client of Redis that bypasses the proxy."""
        return self.redis_pair.primary.client(timeout)

    def direct_postgres(
        self, patience: float = 20.0
    ) -> "AbstractContextManager[psycopg.Connection[Any]]":
        """Return a connection that may write during every fault. Wait until Postgres accepts it."""
        return self.postgres_pair.primary.connected(patience)

    def second_release(self) -> tuple[Child, Child, int]:
        """Return the API and the writer of another release, not started, and the API's port. The
        release shares Redis, and has its own keyring, database and settings.
        """
        port = free_port()
        environment = self._environment(self.folder / "second-keyring.json") | {
            "IOT_BIND": f"127.0.0.1:{port}",
            "IOT_SHARDS": str(2 * SHARDS),
            "IOT_API_WORKERS": "1",
            "IOT_API_METRICS_PORT": "0",
        }
        url = self.second_postgres_url
        environment["IOT_POSTGRES_URL"] = _through(self.to_postgres, url)
        launcher = self._launcher(environment, self.folder)
        api = launcher.api(name="second-api", variables=self._clock("second-api"))
        writer = launcher.writer(name="second-writer", variables=self._clock("second-writer"))
        return api, writer, port

    def _keep_tables_on(self, disk: SmallDisk) -> None:
        with self.direct_postgres() as connection:
            connection.execute(f"CREATE TABLESPACE small LOCATION '{disk.tables}'".encode())
            connection.execute("ALTER DATABASE postgres SET default_tablespace = small")

    def _clock(self, name: str) -> dict[str, str]:
        """Return the variables that let a fault shift the clock of a process."""
        if not can_shift_clocks():
            return {}
        clock = self.clocks[name] = ShiftedClock(self.folder / f"{name}.clock")
        return clock.environment

    def _has_all_workers(self) -> bool:
        return len(api_workers(self.api.part.pid)) >= API_WORKERS

    def _environment(self, keyring: Path) -> dict[str, str]:
        if not keyring.exists():
            create_keyring_file(keyring)
        return environment_with(
            {
                "IOT_REDIS_URL": _through(self.to_redis, self.redis_url),
                "IOT_POSTGRES_URL": _through(self.to_postgres, self.postgres_url),
                "IOT_KEYRING_FILE": str(keyring),
                "IOT_BIND": f"127.0.0.1:{self.port}",
                "IOT_SHARDS": str(SHARDS),
                "IOT_API_WORKERS": str(API_WORKERS),
                "IOT_API_METRICS_PORT": "0" if self.alerts is None else str(self._metrics_port),
                "IOT_WRITER_METRICS_PORT": "0",
                # The minimum cost of scrypt, which keeps the run fast.
                "IOT_SCRYPT_LOG2_N": "10",
                # All devices share one address, so the guess limit would refuse new passwords.
                "IOT_GUESS_LIMIT": "0",
            }
        )


def _through(proxy: Proxy, url: str) -> str:
    parts = urlsplit(url)
    credentials = parts.netloc.rpartition("@")[0]
    return urlunsplit(parts._replace(netloc=f"{credentials}@127.0.0.1:{proxy.port}"))
