"""A service on stores of its own, and everything that it and its stores write."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
from redis import Redis

from iot_sensor_client import Client
from iot_tools.local.postgres_server import PostgresServer, binaries
from iot_tools.local.redis_server import RedisServer
from support.needles import contents, files, found, process_files
from support.stack import Stack

PASSWORD, READING = "Zq7HeronWillow", "Xk4OtterBirch"
_JSON = {"Content-Type": "application/json"}


@dataclass
class System:
    """A whole service with stores of its own, and everything that it writes."""

    redis: RedisServer
    postgres: PostgresServer
    environment: dict[str, str]
    directory: Path
    token: str
    stack: Stack
    commands: list[bytes] = field(default_factory=list)
    """All commands that Redis received."""
    outputs: list[bytes] = field(default_factory=list)
    """Outputs of commands, and metrics."""
    activity: set[bytes] = field(default_factory=set)
    """Statements that Postgres showed to other sessions."""

    @property
    def keyring_file(self) -> Path:
        return Path(self.environment["IOT_KEYRING_FILE"])

    @property
    def tokens_file(self) -> Path:
        return Path(self.environment["IOT_TOKENS_FILE"])

    def client(self) -> Redis:
        """Return a new client of Redis."""
        return Redis.from_url(self.redis.url)

    def sql(self, statement: str, *values: object) -> list[tuple[object, ...]]:
        """Run a statement."""
        with psycopg.connect(self.postgres.url, autocommit=True) as connection:
            cursor = connection.execute(statement.encode(), values or None)
            return cursor.fetchall() if cursor.description else []

    def ask(self, method: str, path: str, body: object, **headers: str) -> int:
        """Send a request with the token. Return the status, or 0 without an answer."""
        authorized = {**_JSON, "Authorization": f"Bearer {self.token}", **headers}
        with Client(self.stack.url, timeout=20) as client, suppress(OSError):
            return client.request(
                method, path, json.dumps(body), authorized, repeatable=False
            ).status
        return 0

    def put(self, password: str = PASSWORD, path: str = "/api/iot", **headers: str) -> int:
        """Send a reading."""
        return self.ask("PUT", path, row(password), **headers)

    def read(self, password: str = PASSWORD, path: str = "") -> int:
        """Read readings."""
        return self.ask("POST", f"/api/iot{path}", {"data": {"db_password": password}})

    def send(self, request: bytes) -> None:
        """Send the bytes of a request, and read the answer."""
        address = ("127.0.0.1", self.stack.port)
        with socket.create_connection(address, 10) as connection, suppress(OSError):
            connection.sendall(request)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(2**16):
                pass

    def command(self, *arguments: str) -> int:
        """Run `iot-sensor`, and keep its output."""
        done = subprocess.run(
            [Path(sys.executable).with_name("iot-sensor"), *arguments],
            env=self.environment, capture_output=True, check=False, timeout=60,
        )  # fmt: skip
        self.outputs += [done.stdout, done.stderr]
        return done.returncode

    def keep_metrics(self) -> None:
        """Keep what monitoring reads of the API."""
        answer = self.stack.request("GET", "/metrics", port=self.stack.metrics_port)
        assert answer.status == 200
        self.outputs.append(answer.body)

    def places(self) -> dict[str, Iterable[bytes]]:
        """Return everything that was written, by place."""
        with self.client() as client:
            client.save()
            slow = repr(client.slowlog_get(-1)).encode()
        self.sql("CHECKPOINT")
        dump = [str(binaries() / "pg_dump"), "--dbname", self.postgres.url, "--inserts"]
        logs = self.directory / "logs"
        return {
            "files of Redis": contents(files(self.redis.directory, but=".log")),
            "commands of Redis": [*self.commands, slow],
            "files of Postgres": contents(files(self.postgres.data)),
            "dump of Postgres": [subprocess.run(dump, check=True, capture_output=True).stdout],
            "statements of Postgres": [*self.activity],  # a copy: the watching thread adds to it
            "logs": contents([*files(logs), self.redis.log, self.postgres.log]),
            "outputs": self.outputs,
            "processes": contents(process_files()),
        }

    def search(self, sought: dict[str, bytes]) -> dict[str, set[str]]:
        """Return the needles that are found, by place; only places with one."""
        result = {place: found(written, sought) for place, written in self.places().items()}
        return {place: names for place, names in result.items() if names}


def row(password: str) -> dict[str, object]:
    """Return a reading as clients send it."""
    return {"data": {"db_password": password, "freeform": {"said": READING}, "relative_time": 1}}


@contextmanager
def watched(system: System) -> Iterator[None]:
    """Record the commands of Redis and the statements that Postgres shows."""
    done = threading.Event()

    def watch_redis() -> None:
        with system.client() as client, client.monitor() as monitor:
            while not done.is_set():
                if monitor.connection.can_read(timeout=0.1):
                    system.commands.append(monitor.connection.read_response(disable_decoding=True))

    def watch_postgres() -> None:
        with psycopg.connect(system.postgres.url, autocommit=True) as connection:
            while not done.wait(0.05):
                shown = connection.execute("SELECT query FROM pg_stat_activity").fetchall()
                system.activity |= {query.encode() for (query,) in shown if query}

    threads = [threading.Thread(target=watch) for watch in (watch_redis, watch_postgres)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        done.set()
        for thread in threads:
            thread.join()


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """Stop a process for the block."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)
