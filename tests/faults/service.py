"""The service under test: its real processes, each kept alive, and a network that can be bad."""

import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psycopg
from redis import Redis

from faults.keeper import Keeper
from faults.processes import children, thaw
from faults.proxy import Proxy
from faults.small_disk import SmallDisk
from iot_cipher.keyring import create_keyring_file
from iot_tools.local.child import Child, LaunchError, Program
from iot_tools.local.ports import free_port
from iot_tools.local.postgres_server import PostgresServer
from iot_tools.local.redis_server import RedisServer
from iot_writer.schema import migrate
from support.shifted_clock import ShiftedClock

API_WORKERS = 2
WRITERS = 2
SHARDS = 8
_GUNICORN = ["gunicorn", "--config", "python:iot_api.gunicorn_conf", "iot_api.wsgi:app"]


class Service:
    """All processes, by the keepers of them, and the proxies before the stores."""

    def __init__(self, folder: Path, stack: ExitStack, disk: SmallDisk | None) -> None:
        self.folder = folder
        self.disk = disk
        self.port = free_port()
        self._fsync = folder / "fsync.conf"
        self._fsync.write_text("appendfsync everysec\n", encoding="utf-8")
        self._redis = RedisServer(
            folder / "redis", config=[f"include {self._fsync}"], log=folder / "redis.log"
        )
        self._postgres = PostgresServer(
            folder / "postgres", port=free_port(), log=folder / "postgres.log"
        )
        self.redis = self._keep(stack, "redis", self._redis)
        self.postgres = self._keep(stack, "postgres", self._postgres)
        for each in (self.redis, self.postgres):
            each.wait_ready()
        self.to_redis = stack.enter_context(Proxy(self._redis.port))
        self.to_postgres = stack.enter_context(Proxy(self._postgres.port or 0))
        if disk is not None:
            self._keep_tables_on(disk)
        migrate(self.postgres_url)
        self.clocks: dict[str, ShiftedClock] = {}
        """Of the API and each writer, by name; none where they can't be shifted."""
        self.environment = environment = self._environment()
        self.writers = [
            self._keep(
                stack,
                f"writer-{number}",
                self._child(f"writer-{number}", ["iot_writer"], environment),
            )
            for number in range(WRITERS)
        ]
        self.api = self._keep(stack, "api", self._child("api", _GUNICORN, environment))

    @property
    def redis_url(self) -> str:
        """Of Redis itself, not through the proxy."""
        return self._redis.url

    @property
    def postgres_url(self) -> str:
        """Of Postgres itself, not through the proxy."""
        return self._postgres.url

    def wait_ready(self, patience: float = 60.0) -> None:
        """Return when every part does its work."""
        for keeper in (self.redis, self.postgres, self.api, *self.writers):
            keeper.wait_ready(patience)

    def direct_redis(self, timeout: float = 5.0) -> "Redis":
        """A client of Redis that no fault of the network touches."""
        return Redis.from_url(self.redis_url, socket_timeout=timeout, socket_connect_timeout=2)

    @contextmanager
    def direct_postgres(self, patience: float = 20.0) -> Iterator["psycopg.Connection[object]"]:
        """A connection that may write whatever fault is on; waits for Postgres to take it."""
        deadline = time.monotonic() + patience
        while True:
            try:
                connection: psycopg.Connection[object] = psycopg.connect(
                    self.postgres_url,
                    autocommit=True,
                    connect_timeout=3,
                    options="-c default_transaction_read_only=off",
                )
                break
            except psycopg.OperationalError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
        with connection:
            yield connection

    def sync_redis(self, how: str) -> None:
        """Set Redis's `appendfsync`, now and for every start that follows."""
        self._fsync.write_text(f"appendfsync {how}\n", encoding="utf-8")
        with self.direct_redis() as client:
            client.config_set("appendfsync", how)

    def _keep_tables_on(self, disk: SmallDisk) -> None:
        with self.direct_postgres() as connection:
            connection.execute(f"CREATE TABLESPACE small LOCATION '{disk.tables}'".encode())
            connection.execute("ALTER DATABASE postgres SET default_tablespace = small")

    def _keep(
        self,
        stack: ExitStack,
        name: str,
        part: "Child | RedisServer | PostgresServer",
    ) -> Keeper:
        keeper = Keeper(name, part)
        keeper.start()
        stack.callback(_end, keeper)
        return keeper

    def _child(self, name: str, module: list[str], environment: dict[str, str]) -> Child:
        if shutil.which("cc"):
            self.clocks[name] = ShiftedClock(self.folder / f"{name}.clock")
            environment = environment | self.clocks[name].environment
        program = Program(
            name=name,
            arguments=[sys.executable, "-m", *module],
            environment=environment,
            log=self.folder / f"{name}.log",
            stop_seconds=15,
        )
        if name == "api":
            return Child(program, ready=lambda: len(children(self.api.part.pid)) >= API_WORKERS)
        return Child(program)

    def _environment(self) -> dict[str, str]:
        keyring = self.folder / "keyring.json"
        create_keyring_file(keyring)
        kept = {name: value for name, value in os.environ.items() if not name.startswith("IOT_")}
        return kept | {
            "IOT_REDIS_URL": _through(self.to_redis, self.redis_url),
            "IOT_POSTGRES_URL": _through(self.to_postgres, self.postgres_url),
            "IOT_KEYRING_FILE": str(keyring),
            "IOT_BIND": f"127.0.0.1:{self.port}",
            "IOT_SHARDS": str(SHARDS),
            "IOT_API_WORKERS": str(API_WORKERS),
            "IOT_API_METRICS_PORT": "0",
            "IOT_WRITER_METRICS_PORT": "0",
            # scrypt at its least: its cost is not what is tested here.
            "IOT_SCRYPT_LOG2_N": "10",
            # Devices share the address of loopback, and none of them guesses.
            "IOT_GUESS_LIMIT": "0",
        }


def _through(proxy: Proxy, url: str) -> str:
    parts = urlsplit(url)
    credentials = parts.netloc.rpartition("@")[0]
    return urlunsplit(parts._replace(netloc=f"{credentials}@127.0.0.1:{proxy.port}"))


def _end(keeper: Keeper) -> None:
    with suppress(LaunchError):
        thaw(keeper.part.pid)
    keeper.stop()
    keeper.join(60)
