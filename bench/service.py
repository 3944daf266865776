"""The service under test: its real processes on loopback, data in a temporary folder."""

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from iot_cipher.keyring import create_keyring_file
from iot_tools.local.postgres_server import PostgresServer
from iot_tools.local.redis_server import RedisServer
from iot_writer.schema import migrate

READY_SECONDS = 20


@dataclass(frozen=True, slots=True)
class Running:
    """Where the service is reached."""

    port: int
    postgres_url: str


@contextmanager
def running_service() -> Iterator[Running]:
    """Two API processes, one writer, Redis (AOF, fsync every second) and Postgres (fsync)."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="iot-bench-")))
        redis, postgres = RedisServer(folder / "redis"), PostgresServer(folder / "postgres")
        for server in (redis, postgres):
            server.start()
            stack.callback(server.stop)
        migrate(postgres.url)
        create_keyring_file(folder / "keyring.json")
        port = _free_port()
        environment = {
            **os.environ,
            "IOT_REDIS_URL": redis.url,
            "IOT_POSTGRES_URL": postgres.url,
            "IOT_KEYRING_FILE": str(folder / "keyring.json"),
            "IOT_BIND": f"127.0.0.1:{port}",
            "IOT_API_METRICS_PORT": "0",
            "IOT_WRITER_METRICS_PORT": "0",
            "IOT_LOG_LEVEL": "ERROR",
        }
        gunicorn = ["gunicorn", "--config", "python:iot_api.gunicorn_conf", "iot_api.wsgi:app"]
        for module in (gunicorn, ["iot_writer"]):
            process = subprocess.Popen([sys.executable, "-m", *module], env=environment)  # noqa: S603
            stack.callback(_end, process)
        _wait_until_ready(port)
        yield Running(port, postgres.url)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    process.wait()


def _wait_until_ready(port: int) -> None:
    end = time.monotonic() + READY_SECONDS
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            if time.monotonic() > end:
                raise
            time.sleep(0.05)
