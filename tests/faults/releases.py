"""A second release, with its own keyring and database, that is pointed at the same Redis."""

import http.client
import json
import sys
import time

import psycopg

from faults.fault import Scene
from faults.service import Service
from iot_cipher.keyring import create_keyring_file
from iot_tools.local.child import Child, Program
from iot_tools.local.ports import free_port
from iot_writer.schema import migrate

_DATABASE = "second_release"
_START_SECONDS = 30.0
_ROW = json.dumps({"data": {"db_password": "second", "freeform": "refused"}})


def second_release(scene: Scene) -> None:
    """Start it, and end it; nothing of it may be acknowledged, and it may take nothing."""
    service, port = scene.service, free_port()
    environment = _environment(service, port)
    api = ["gunicorn", "--config", "python:iot_api.gunicorn_conf", "iot_api.wsgi:app"]
    children = [
        Child(
            Program(
                name=f"second-{name}",
                arguments=[sys.executable, "-m", *module],
                environment=environment,
                log=service.folder / f"second-{name}.log",
                stop_seconds=15,
            )
        )
        for name, module in {"writer": ["iot_writer"], "api": api}.items()
    ]
    try:
        for child in children:
            child.spawn()
        _wait(scene, port)
        for _ in range(20):
            status = _put(port)
            assert status != 201, "a second release acknowledged into the Redis of the first"
        scene.last()
    finally:
        for child in children:
            child.stop()


def _environment(service: Service, port: int) -> dict[str, str]:
    keyring = service.folder / "second-keyring.json"
    create_keyring_file(keyring)
    url = psycopg.conninfo.make_conninfo(service.postgres_url, dbname=_DATABASE)
    service.postgres.wait_ready()
    with service.direct_postgres() as connection:
        known = connection.execute("SELECT FROM pg_database WHERE datname = %s", (_DATABASE,))
        if known.fetchone() is None:
            connection.execute(f"CREATE DATABASE {_DATABASE} TABLESPACE pg_default".encode())
    migrate(psycopg.conninfo.make_conninfo(url, options="-c default_transaction_read_only=off"))
    return service.environment | {
        "IOT_REDIS_URL": service.redis_url,
        "IOT_POSTGRES_URL": url,
        "IOT_KEYRING_FILE": str(keyring),
        "IOT_BIND": f"127.0.0.1:{port}",
        "IOT_API_WORKERS": "1",
    }


def _wait(scene: Scene, port: int) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while not _put(port) and time.monotonic() < deadline and not scene.over.wait(0.2):
        continue


def _put(port: int) -> int:
    """The status of a PUT; 0 without an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request("PUT", "/api/iot", _ROW, {"Content-Type": "application/json"})
        return connection.getresponse().status
    except OSError:
        return 0
    finally:
        connection.close()
