"""Small child processes to supervise, and a small service for simulated devices."""

import gzip
import json
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from iot_tools.local.child import Child, Program
from support.serving import QuietHandler, serving

MakeChild = Callable[..., Child]


@pytest.fixture
def make_child(tmp_path: Path) -> Iterator[MakeChild]:
    """A function that makes a child that runs Python code; the fixture kills all at the end."""
    made: list[Child] = []

    def make(code: str, name: str = "part", stop_seconds: float = 5.0, **options: Any) -> Child:
        program = Program(
            name=name,
            arguments=[sys.executable, "-I", "-S", "-u", "-c", code],
            log=tmp_path / f"{name}.log",
            directory=tmp_path,
            stop_seconds=stop_seconds,
        )
        made.append(Child(program, **options))
        return made[-1]

    yield make
    for child in made:
        child.kill()
        child.clear_group()


class FakeService:
    """A service that stores readings once for each key, and fails on demand."""

    def __init__(self) -> None:
        self.readings: list[dict[str, Any]] = []
        self.requests = 0
        self.authorizations: set[str | None] = set()
        self.failures: list[tuple[int, dict[str, str]]] = []
        self.lose_answers = 0
        self._keys: set[str] = set()
        self._lock = threading.Lock()
        service = self

        class Handler(QuietHandler):
            def do_PUT(self) -> None:  # noqa: N802 -- the name http.server calls
                service.authorizations.add(self.headers["Authorization"])
                body = self.body()
                if self.headers["Content-Encoding"] == "gzip":
                    body = gzip.decompress(body)
                rows = json.loads(body)
                status, headers = service.take(rows, self.headers["Idempotency-Key"])
                if status == 0:
                    self.close_connection = True
                    return
                self.answer(status, b'{"success": "%d object(s) created"}' % len(rows), headers)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def take(self, rows: list[dict[str, Any]], key: str) -> tuple[int, dict[str, str]]:
        """Return the status and headers of a PUT; status 0 means no answer."""
        with self._lock:
            self.requests += 1
            if self.failures:
                return self.failures.pop(0)
            if key not in self._keys:
                self._keys.add(key)
                self.readings += [row["data"] for row in rows]
            if self.lose_answers:
                self.lose_answers -= 1
                return 0, {}
            return 201, {}


@pytest.fixture
def service() -> Iterator[FakeService]:
    """A running `FakeService`."""
    fake = FakeService()
    with serving(fake.server):
        yield fake
