"""The containers run with real stores and the restrictions of the chart."""

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from images.containers import Image, Podman
from iot_cipher.keyring import create_keyring_file
from iot_tools.local.ports import free_port
from iot_tools.local.postgres_server import PostgresServer
from iot_tools.local.redis_server import RedisServer
from support.stack import Stack
from support.waiting import wait_until

MOUNTED = "/etc/iot-sensor"
PASSWORD = "of the images"
ROW = {"db_password": PASSWORD, "relative_time": 1, "interrogator_time": 2, "freeform": {"a": 1}}


@dataclass
class Service:
    """Containers of both images with the same stores."""

    podman: Podman
    images: dict[str, Image]
    options: list[str]
    api: Stack
    writer_metrics: int

    def command(self, *arguments: str) -> str:
        """Run `iot-sensor` in a container of the writer's image, and return its output."""
        image = self.images["writer"]
        return self.podman.restricted(image, ["iot-sensor", *arguments], options=self.options)

    def logs(self, container: str) -> str:
        """Return the output of a container."""
        return self.podman.logs(container)

    @contextlib.contextmanager
    def started(self, service: str) -> Iterator[str]:
        """Run a service and yield the id of its container. If the test fails, print its output."""
        with self.podman.started(self.images[service], self.options) as container:
            try:
                yield container
            except BaseException:
                print(self.logs(container))
                raise

    def shows(self, port: int, metric: bytes) -> bool:
        """Return whether a metric has the value. The API's port opens after its first answers."""
        try:
            metrics = self.api.request("GET", "/metrics", port=port)
        except OSError:
            return False
        return metrics.status == 200 and metric in metrics.body

    def ready(self) -> bool:
        """Return whether the API is ready."""
        try:
            return self.api.request("GET", "/readyz").status == 200
        except OSError:
            return False


@pytest.fixture
def stores(tmp_path: Path) -> Iterator[dict[str, str]]:
    """URLs of an empty Redis and an empty Postgres on the loopback address."""
    redis = RedisServer(tmp_path / "redis")
    settings = {"fsync": "off", "listen_addresses": "127.0.0.1"}
    postgres = PostgresServer(tmp_path / "postgres", settings=settings, port=free_port())
    with contextlib.ExitStack() as running:
        for server in (redis, postgres):
            server.start()
            running.callback(server.stop)
        yield {"redis": redis.url, "postgres": postgres.url}


@pytest.fixture
def service(
    podman: Podman, images: dict[str, Image], stores: dict[str, str], tmp_path: Path
) -> Service:
    """Both images with the settings and mounted files of a pod."""
    files = tmp_path / "mounted"
    (files / "keyring").mkdir(parents=True)
    create_keyring_file(files / "keyring" / "keyring.json")
    for name, url in stores.items():
        (files / name).mkdir()
        (files / name / "url").write_text(url, encoding="utf-8")
    for path in files.rglob("*"):
        os.chown(path, 65532, 65532)
    api = Stack({}, tmp_path, metrics=True)
    writer_metrics = free_port()
    environment = {
        "IOT_KEYRING_FILE": f"{MOUNTED}/keyring/keyring.json",
        "IOT_REDIS_URL_FILE": f"{MOUNTED}/redis/url",
        "IOT_POSTGRES_URL_FILE": f"{MOUNTED}/postgres/url",
        "IOT_BIND": f"127.0.0.1:{api.port}",
        "IOT_METRICS_ADDRESS": "127.0.0.1",
        "IOT_API_METRICS_PORT": str(api.metrics_port),
        "IOT_WRITER_METRICS_PORT": str(writer_metrics),
        "IOT_SCRYPT_LOG2_N": "10",
    }
    options = [f"--volume={files}:{MOUNTED}:ro"]
    options += [f"--env={name}={value}" for name, value in environment.items()]
    return Service(podman, images, options, api, writer_metrics)


def test_services_migrate_store_read_and_shut_down(service: Service) -> None:
    service.command("migrate")
    service.command("migrate")
    with service.started("api") as api, service.started("writer") as writer:
        wait_until(service.ready, what="readiness of the API")
        answer = service.api.request(
            "PUT",
            "/api/iot?ack=stored",
            json.dumps({"data": ROW}),
            {"Content-Type": "application/json"},
        )
        assert answer.status == 201, answer
        (row,) = service.api.read(PASSWORD)
        assert row["freeform"] == '{"a": 1}'
        assert service.api.read("another") == []
        for port, metric in (
            (service.api.metrics_port, b"iot_readings_acknowledged_total 1.0"),
            (service.writer_metrics, b"iot_readings_stored_total 1.0"),
        ):
            wait_until(partial(service.shows, port, metric), what=metric.decode())
        for container in (writer, api):
            assert service.podman.stop(container) == 0, service.logs(container)


def test_an_invalid_setting_stops_a_service_with_a_message(service: Service) -> None:
    service.options.append("--env=IOT_SHARDS=none")
    for name in ("api", "writer"):
        with service.started(name) as container:
            assert service.podman("wait", container).strip() != "0"
            assert "IOT_SHARDS" in service.logs(container)
            assert "Traceback" not in service.logs(container)
