"""The real processes of the service, as `make run` starts them, on free ports."""

import http.client
import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from iot_cipher.writer_keys import write_writer_keys_file
from iot_tools.local.ports import free_port
from support.waiting import wait_until


@dataclass(frozen=True)
class Answer:
    """An HTTP answer."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


class Stack:
    """gunicorn and writers on a given environment of `IOT_*` variables."""

    def __init__(self, environment: Mapping[str, str], logs: Path) -> None:
        self.port = free_port()
        self.metrics_port = free_port()
        self._logs = logs
        self._environment: dict[str, str] = {
            **environment,
            "IOT_BIND": f"127.0.0.1:{self.port}",
            "IOT_API_METRICS_PORT": str(self.metrics_port),
            "IOT_WRITER_METRICS_PORT": "0",
        }
        self.writer_environment: dict[str, str] = {}
        """What the writers are told otherwise."""
        self.api: subprocess.Popen[bytes] | None = None
        self.writers: list[subprocess.Popen[bytes]] = []

    def start_api(self, *options: str, wait: bool = True) -> None:
        """Start gunicorn, with options of its own, and wait until it is ready."""
        command = ["-m", "gunicorn", "--config", "python:iot_api.gunicorn_conf", *options]
        self.api = self._start("api", [*command, "iot_api.wsgi:app"])
        if wait:
            wait_until(self._ready, what="readiness of the API")

    def start_writer(self) -> subprocess.Popen[bytes]:
        """Start one more writer, with a writer's keys alone."""
        keys = self._logs / "writer-keys"
        write_writer_keys_file(Path(self._environment["IOT_KEYRING_FILE"]), keys)
        own = {"IOT_KEYRING_FILE": str(keys), **self.writer_environment}
        writer = self._start(f"writer-{len(self.writers)}", ["-m", "iot_writer"], own)
        self.writers.append(writer)
        return writer

    def unset(self, *variables: str) -> None:
        """Start processes without these variables of the environment from now on."""
        for name in variables:
            del self._environment[name]

    def stop(self) -> None:
        """End all processes in good order; kill what doesn't end."""
        running = [each for each in (self.api, *self.writers) if each is not None]
        for process in running:
            process.terminate()
        for process in running:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def request(
        self,
        method: str,
        path: str,
        body: bytes | str | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        port: int | None = None,
    ) -> Answer:
        """One request on a connection of its own."""
        connection = self._http(port or self.port)
        try:
            connection.request(method, path, body, dict(headers or {}))
            answer = connection.getresponse()
            return Answer(answer.status, answer.headers, answer.read())
        finally:
            connection.close()

    def _http(self, port: int) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", port, timeout=30)

    def put(self, rows: object) -> Answer:
        """PUT rows as JSON."""
        return self.request("PUT", "/api/iot", json.dumps(rows), _JSON)

    def read(self, password: str, path: str = "") -> list[dict[str, Any]]:
        """The readings that a POST to `/api/iot<path>` gives."""
        body = json.dumps({"data": {"db_password": password}})
        answer = self.request("POST", f"/api/iot{path}", body, _JSON)
        assert answer.status == 200, answer
        rows: list[dict[str, Any]] = answer.json()["data"]
        return rows

    def answers(self) -> bool:
        """Whether the API answers, ready or not."""
        try:
            return self.request("GET", "/healthz").status == 200
        except OSError:
            return False

    def _ready(self) -> bool:
        assert self.api is not None
        assert self.api.poll() is None, "the API ended"
        try:
            return self.request("GET", "/readyz").status == 200
        except OSError:
            return False

    def _start(
        self, name: str, arguments: list[str], own: Mapping[str, str] = {}
    ) -> subprocess.Popen[bytes]:
        environment = {**self._environment, **own}
        with (self._logs / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, *arguments], env=environment, stdout=log, stderr=log
            )


_JSON = {"Content-Type": "application/json"}
