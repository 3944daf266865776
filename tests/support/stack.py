"""The real processes of the service on free ports."""

import json
import os
import signal
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from iot_cipher.writer_keys import write_writer_keys_file
from iot_sensor_client import Client, Response
from iot_tools.local.child import Child, wait_until
from iot_tools.local.launcher import Launcher
from iot_tools.local.ports import free_port

from .each_worker import connections_to_each
from .fork_server import ForkingLauncher
from .processes import api_workers, children, has_ended


class Stack:
    """gunicorn and writers on a given environment of `IOT_*` variables."""

    def __init__(
        self,
        environment: Mapping[str, str],
        logs: Path,
        *,
        metrics: bool = False,
        forked: bool = True,
    ) -> None:
        """Describe the processes to start.

        With `metrics`, the API serves its metrics, which takes one more process.

        Processes are forked from a fork server, except with `forked=False`, for tests that look at
        the memory or the environment of a process.
        """
        self.port = free_port()
        self.metrics_port = 0
        self._logs = logs
        self._environment: dict[str, str] = {
            **environment,
            "IOT_BIND": f"127.0.0.1:{self.port}",
            "IOT_API_METRICS_PORT": "0",
            "IOT_WRITER_METRICS_PORT": "0",
            "TMPDIR": str(logs),  # a killed API leaves its folder of metrics
        }
        launcher = ForkingLauncher if forked else Launcher
        self._launcher = launcher(self._environment, logs)
        self.writer_environment: dict[str, str] = {}
        """Variables of the writers only."""
        self.api: Child | None = None
        self.writers: list[Child] = []
        if metrics:
            self.serve_metrics()

    @property
    def url(self) -> str:
        """The URL of the API, without TLS."""
        return f"http://127.0.0.1:{self.port}"

    def serve_metrics(self) -> None:
        """Serve metrics on `metrics_port` from the next start of the API on."""
        self.metrics_port = free_port()
        self._environment["IOT_API_METRICS_PORT"] = str(self.metrics_port)

    def start_api(self, *options: str, wait: bool = True) -> None:
        """Start gunicorn with extra options, and wait until it is ready."""
        self.api = self._launcher.api(
            *options, ready=self._client(self.port).is_ready, stop_seconds=20
        )
        if wait:
            self.api.start(60)  # long enough for a busy machine
            if self.metrics_port:
                wait_until(self._serves_metrics, 60)  # another process, which starts later
        else:
            self.api.spawn()

    def start_writer(self) -> Child:
        """Start one more writer, with the writers' keys only."""
        keys = self._logs / "writer-keys"
        write_writer_keys_file(Path(self._environment["IOT_KEYRING_FILE"]), keys)
        variables = {"IOT_KEYRING_FILE": str(keys), **self.writer_environment}
        name = f"writer-{len(self.writers)}"
        writer = self._launcher.writer(name=name, variables=variables, stop_seconds=20)
        writer.spawn()
        self.writers.append(writer)
        return writer

    def start_missing(self, *, writers: int = 1) -> None:
        """Start the API if it does not run, and writers until `writers` of them run."""
        for _ in range(writers - sum(writer.running for writer in self.writers)):
            self.start_writer()
        if self.api is None or not self.api.running:
            self.start_api()

    def workers(self) -> set[int]:
        """Return the pids of gunicorn's workers."""
        assert self.api is not None
        return api_workers(self.api.pid)

    def kill_api(self) -> None:
        """Kill gunicorn and its workers together, as the kill of a container does."""
        assert self.api is not None
        killed = [self.api.pid, *children(self.api.pid)]
        for process in killed:
            os.kill(process, signal.SIGKILL)
        self.api.wait()
        wait_until(lambda: all(map(has_ended, killed)), 20)  # until then, they may hold locks

    def unset(self, *variables: str) -> None:
        """Start processes without these variables from now on."""
        for name in variables:
            del self._environment[name]

    def stop(self) -> None:
        """Kill all processes. A shutdown would take a second more."""
        running = [process for process in (self.api, *self.writers) if process is not None]
        for process in running:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        for process in running:
            process.wait()

    def shut_down(self) -> None:
        """Shut down all processes; kill those that do not end."""
        running = [process for process in (self.api, *self.writers) if process is not None]
        for process in running:
            process.terminate()
        for process in running:
            # A second SIGTERM would make RQ drop its job.
            wait_until(lambda process=process: not process.running, 20)  # type: ignore[misc]
            process.stop()

    def request(
        self,
        method: str,
        path: str,
        body: bytes | str | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        port: int | None = None,
    ) -> Response:
        """Send one request on a new connection."""
        with self._client(port or self.port) as client:
            return client.request(method, path, body, headers, repeatable=False)

    def ask_each_worker(
        self, method: str, path: str, body: str, headers: Mapping[str, str]
    ) -> list[Response]:
        """Send one request to each API worker."""
        with connections_to_each(self.port, self.workers) as connections:
            return [_ask(connection, method, path, body, headers) for connection in connections]

    def _client(self, port: int) -> Client:
        return Client(f"http://127.0.0.1:{port}", timeout=30)

    def put(self, rows: object) -> Response:
        """PUT rows as JSON."""
        return self.request("PUT", "/api/iot", json.dumps(rows), _JSON)

    def read(self, password: str, path: str = "") -> list[dict[str, Any]]:
        """Return the readings of a POST to `/api/iot<path>`."""
        return _rows(self.request("POST", f"/api/iot{path}", _read_body(password), _JSON))

    def read_from_each_worker(self, password: str) -> list[list[dict[str, Any]]]:
        """Return the readings of a vault, as each API worker returns them."""
        answers = self.ask_each_worker("POST", "/api/iot", _read_body(password), _JSON)
        return [_rows(answer) for answer in answers]

    def _serves_metrics(self) -> bool:
        try:
            return self.request("GET", "/metrics", port=self.metrics_port).status == 200
        except OSError:
            return False

    def answers(self) -> bool:
        """Return whether the API answers, ready or not."""
        try:
            return self.request("GET", "/healthz").status == 200
        except OSError:
            return False


MakeStack = Callable[..., Stack]
"""Type of the fixture `make_stack` of the system tests."""


@contextmanager
def running_stack(
    environment: Mapping[str, str],
    logs: Path,
    *options: str,
    writers: int = 1,
    metrics: bool = False,
    forked: bool = True,
) -> Iterator[Stack]:
    """Run an API with extra options of gunicorn, and writers, for the block."""
    logs.mkdir(exist_ok=True)
    stack = Stack(environment, logs, metrics=metrics, forked=forked)
    try:
        for _ in range(writers):
            stack.start_writer()  # it starts while the API starts
        stack.start_api(*options)
        yield stack
    finally:
        stack.stop()


def _ask(
    connection: socket.socket, method: str, path: str, body: str, headers: Mapping[str, str]
) -> Response:
    """Send one request over an open connection."""
    client = HTTPConnection(*connection.getpeername())
    client.sock = connection
    client.request(method, path, body, dict(headers))
    answer = client.getresponse()
    return Response(answer.status, answer.headers, answer.read())


def _read_body(password: str) -> str:
    return json.dumps({"data": {"db_password": password}})


def _rows(answer: Response) -> list[dict[str, Any]]:
    """Return the readings of an answer to a read."""
    assert answer.status == 200, answer
    rows: list[dict[str, Any]] = answer.json()["data"]
    return rows


_JSON = {"Content-Type": "application/json"}
