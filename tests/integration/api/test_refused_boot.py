"""The error of gunicorn when a setting prevents the API from starting."""

import socket
import subprocess
import sys
from pathlib import Path

from iot_cipher.writer_keys import write_writer_keys_file
from iot_tools.local.ports import free_port


def _boot(environment: dict[str, str], metrics_port: int = 0) -> subprocess.CompletedProcess[str]:
    alone = {
        "IOT_BIND": f"127.0.0.1:{free_port()}",
        "IOT_METRICS_ADDRESS": "127.0.0.1",
        "IOT_API_METRICS_PORT": str(metrics_port),
        "IOT_API_WORKERS": "1",
    }
    gunicorn = ["-m", "gunicorn", "--config", "python:iot_api.gunicorn_conf", "iot_api.wsgi:app"]
    return subprocess.run(
        [sys.executable, *gunicorn],
        env=environment | alone,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_an_invalid_postgres_url_is_reported_without_its_password(
    environment: dict[str, str],
) -> None:
    done = _boot(environment | {"IOT_POSTGRES_URL": "postgresql://me:hunter2%zz@h/db"})
    assert done.returncode == 2, done.stderr
    assert "IOT_POSTGRES_URL is not a libpq URL" in done.stderr
    assert "hunter2" not in done.stdout + done.stderr
    assert "AttributeError" not in done.stderr


def test_a_writers_keys_are_refused(environment: dict[str, str], tmp_path: Path) -> None:
    write_writer_keys_file(Path(environment["IOT_KEYRING_FILE"]), tmp_path / "writer-keys")
    done = _boot(environment | {"IOT_KEYRING_FILE": str(tmp_path / "writer-keys")})
    assert done.returncode == 2, done.stderr
    assert "the keyring file holds only a writer's keys, which open no vault" in done.stderr


def test_a_metrics_port_in_use_is_refused(environment: dict[str, str]) -> None:
    """The metrics server is another process: the API would run without it."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = _boot(environment, port)
    assert done.returncode == 2, done.stderr
    message = f"IOT_API_METRICS_PORT: can't listen on 127.0.0.1 port {port}: Address already in use"
    assert message in done.stderr.splitlines()[-1]
