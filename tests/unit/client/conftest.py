"""A small HTTP server that answers as the test tells it, readings that clients send to it, and a
small disk."""

import gzip
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from iot_sensor_client import Client, RetryPolicy
from support.serving import QuietHandler, serving

DISK_BYTES = 12 * 2**20
CLOSE = 0
"""Instead of a status: close the connection without a response."""
NOWHERE = "http://127.0.0.1:1"
QUICK = RetryPolicy(base_seconds=0.001, max_pause_seconds=0.01)


@dataclass(frozen=True)
class Received:
    """A request as the server received it."""

    method: str
    path: str
    headers: dict[str, str]
    """Names in lower case."""
    body: bytes
    connection: int
    """The port of the client: it tells connections apart."""


class Server:
    """Answers with `answers` in turn, then 200 or `status_of`; records all requests."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, dict[str, str]]] = []
        self.body: bytes | None = None
        """Body of answers; None: as the service answers a PUT or `/readyz`."""
        self.refusal: bytes | None = None
        """Body of answers with 400 and more, if it is not `body`."""
        self.status_of: Callable[[Received], int] | None = None
        """Chooses the status of a request when `answers` is empty."""
        self.closes = False
        """Close the connection after each response, without announcing it."""
        self.received: list[Received] = []
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}"

    @property
    def connections(self) -> int:
        """Connections that carried a request."""
        return len({request.connection for request in self.received})

    def _handler(self) -> type[QuietHandler]:
        server = self

        class Handler(QuietHandler):
            def _any(self) -> None:
                body = self.body()
                headers = {name.lower(): value for name, value in self.headers.items()}
                port = self.client_address[1]
                received = Received(self.command, self.path, headers, body, port)
                server.received.append(received)
                chosen = server.status_of(received) if server.status_of else 200
                status, extra = server.answers.pop(0) if server.answers else (chosen, {})
                if status == CLOSE:
                    self.close_connection = True
                    return
                content = server.refusal if server.refusal and status >= 400 else server.body
                if content is None:
                    put = (received.method, received.path) == ("PUT", "/api/iot")
                    created = len(rows(received)) if put else 0
                    content = b'{"success":"%d object(s) created","status":"ready"}' % created
                self.answer(status, content, extra)
                self.close_connection |= server.closes

            do_GET = do_PUT = do_POST = do_DELETE = _any  # noqa: N815 -- the names http.server calls

        return Handler


@pytest.fixture
def server() -> Iterator[Server]:
    """A server that runs."""
    made = Server()
    with serving(made.http):
        yield made


def reading(number: int, **more: object) -> dict[str, Any]:
    return {"relative_time": number, "interrogator_time": 2, "freeform": {"rssi": -61}} | more


def rows(received: Received) -> list[dict[str, Any]]:
    body = received.body
    if received.headers.get("content-encoding") == "gzip":
        body = gzip.decompress(body)
    return [row["data"] for row in json.loads(body)]


def times(received: Received) -> list[int]:
    return [row["relative_time"] for row in rows(received)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "readings.outbox"


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with Client(server.url, "secret") as made:
        yield made


class Usage(NamedTuple):
    """As `shutil.disk_usage` returns it."""

    total: int
    used: int
    free: int


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder that counts as a whole disk of `DISK_BYTES`."""

    def usage(_: Path) -> Usage:
        used = sum(each.stat().st_size for each in tmp_path.iterdir())
        return Usage(DISK_BYTES, used, max(0, DISK_BYTES - used))

    monkeypatch.setattr(shutil, "disk_usage", usage)
    return tmp_path
