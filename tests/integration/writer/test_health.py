"""The port of the writer for metrics and probes."""

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from redis import Redis

from iot_tools.local.ports import free_port
from support.databases import set_revision
from support.fork_server import ForkingLauncher
from support.http_get import http_get
from support.stack import Stack
from support.waiting import wait_until


@contextmanager
def _writer(environment: dict[str, str], tmp_path: Path) -> Iterator[int]:
    """Run a writer process and yield its port; the process must end after SIGTERM."""
    port = free_port()
    variables = {"IOT_WRITER_METRICS_PORT": str(port), "IOT_METRICS_ADDRESS": "127.0.0.1"}
    process = ForkingLauncher({**environment, **variables}, tmp_path).writer()
    process.spawn()
    try:
        wait_until(lambda: _reachable(port), what="the port of the writer")
        yield port
        process.terminate()
        assert process.wait(20) == 0
    finally:
        process.kill()


def _reachable(port: int) -> bool:
    try:
        return http_get(port, "/healthz")[0] == 200
    except OSError:
        return False


def _get_json(port: int, path: str) -> tuple[int, Any]:
    status, body = http_get(port, path)
    return status, json.loads(body)


def test_a_working_writer_is_ready(environment: dict[str, str], tmp_path: Path) -> None:
    with _writer(environment, tmp_path) as port:
        ready = {"status": "ready", "redis": "ok", "postgres": "ok"}
        assert _get_json(port, "/readyz") == (200, ready)
        assert _get_json(port, "/readyz") == (200, {**ready, "postgres": "ok at the last check"})
        assert _get_json(port, "/healthz") == (200, {"status": "ok"})
        status, body = http_get(port, "/metrics")
        assert status == 200
        assert b"iot_readings_stored_total" in body
        assert http_get(port, "/other")[0] == 404


@pytest.mark.parametrize(
    ("found", "fault"), [("none", "has no schema"), ("9999", "schema is 9999")]
)
def test_a_writer_with_an_unknown_schema_is_not_ready(
    found: str,
    fault: str,
    environment: dict[str, str],
    postgres: psycopg.Connection,
    tmp_path: Path,
) -> None:
    set_revision(postgres, found)
    with _writer(environment, tmp_path) as port:
        status, told = _get_json(port, "/readyz")
        assert (status, told["status"]) == (503, "not ready")
        assert fault in told["postgres"]
        assert _get_json(port, "/healthz") == (200, {"status": "ok"})


def _refused(environment: dict[str, str], **changes: str) -> str:
    """Return the error of a writer that refuses to start."""
    done = subprocess.run(
        [sys.executable, "-m", "iot_writer"],
        env={**environment, **changes},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    return done.stderr


def test_an_error_names_a_port_in_use(environment: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        address = {"IOT_METRICS_ADDRESS": "127.0.0.1", "IOT_WRITER_METRICS_PORT": port}
        said = _refused(environment, **address)
    problem = f"can't listen on 127.0.0.1 port {port}: Address already in use"
    assert said == f"iot-writer: IOT_WRITER_METRICS_PORT: {problem}\n"


@pytest.mark.parametrize("url", ["postgresql://me:hunter2%zz@h/db", "postgresql://me:a@hunter2@h"])
def test_an_error_about_the_postgres_url_shows_no_password(
    url: str, environment: dict[str, str]
) -> None:
    said = _refused(environment, IOT_POSTGRES_URL=url)
    assert said.startswith("iot-writer: IOT_POSTGRES_URL is not a libpq URL")
    assert "hunter2" not in said


def test_a_writer_without_its_stores_is_not_ready(
    environment: dict[str, str], tmp_path: Path
) -> None:
    """The process continues: it is alive but not ready."""
    away = {
        "IOT_REDIS_URL": f"redis://127.0.0.1:{free_port()}/0",
        "IOT_POSTGRES_URL": f"postgresql://127.0.0.1:{free_port()}/none",
    }
    with _writer(environment | away, tmp_path) as port:
        not_ready = {"status": "not ready", "redis": "away", "postgres": "away"}
        assert _get_json(port, "/readyz") == (503, not_ready)
        assert _get_json(port, "/healthz") == (200, {"status": "ok"})


def test_a_writer_with_the_whole_keyring_logs_a_warning(
    environment: dict[str, str], keyring_file: Path, tmp_path: Path
) -> None:
    """A writer with the whole keyring starts, for upgrades from versions without writer keys."""
    for given, expected in (({}, False), ({"IOT_KEYRING_FILE": str(keyring_file)}, True)):
        logs = tmp_path / str(expected)
        logs.mkdir()
        stack = Stack(environment, logs)
        stack.writer_environment = given
        writer = stack.start_writer()
        with Redis.from_url(environment["IOT_REDIS_URL"]) as redis:
            wait_until(lambda redis=redis: redis.scard("rq:workers"), what="the writer")  # type: ignore[misc]
            writer.terminate()
            assert writer.wait(20) == 0
            redis.flushall()
        said = "more than a writer needs" in (logs / "writer-0.log").read_text(encoding="utf-8")
        assert said is expected
