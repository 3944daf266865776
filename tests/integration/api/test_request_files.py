"""The project files that run for a PUT and for a read: a reader must open as many to follow one."""

import json
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest

from integration.api.asking import Api, row
from integration.api.test_put_costs import REQUEST, Log
from iot_api.server.exchange import Exchange
from iot_writer.writer import Writer
from support.api_worker import lone_worker
from support.draining import drain_all

ROOT = Path(__file__).parents[3]
FILES = {
    "iot_api/server/exchange.py",
    "iot_api/server/connection.py",
    "iot_api/http/request.py",
    "iot_api/ingest/endpoint.py",
    "iot_api/ingest/parser.py",
    "iot_api/ingest/intake.py",
    "iot_api/vaults/cache.py",
    "iot_cipher/encryption.py",
    "iot_stores/backlog_append.py",
}
"""The files from the exchange to the 201, for one reading of an open vault, without
tokens."""

BODY = json.dumps(row()).encode()
READ = (
    b"POST /api/iot/last/1 HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    b"Content-Length: %d\r\n\r\n%b" % (len(BODY), BODY)
)
MAX_PUT_FILES = 9
MAX_READ_FILES = 14


@pytest.fixture
def worker(api: Api) -> Iterator[Any]:
    """A gunicorn worker that has the vault open."""
    assert api.put(row()).status_code == 201
    with lone_worker(Log(__name__)) as made:
        made.wsgi = api.app
        yield made


class Recorder:
    """A recorder of the project's code that runs while recording is on."""

    def __init__(self) -> None:
        self.code: set[CodeType] = set()
        self.records = False

    def __call__(self, frame: FrameType, event: str, _: object) -> None:
        if self.records and event == "call":
            self.code.add(frame.f_code)

    def files(self) -> set[str]:
        """Return the files of the project, relative to their package."""
        paths = {Path(code.co_filename) for code in self.code}
        ours = {path for path in paths if path.is_relative_to(ROOT) and path.suffix == ".py"}
        return {
            "/".join(path.parts[path.parts.index(package) :])
            for path in ours
            for package in path.parts
            if package.startswith("iot_") and ".venv" not in path.parts
        }


def files_of_second(worker: Any, request: bytes, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Return the files that run from the first answer of a connection to the second."""
    recorder = Recorder()
    answer_next = Exchange.answer_next

    def answer(exchange: Exchange) -> None:
        answer_next(exchange)
        recorder.records = not recorder.records

    monkeypatch.setattr(Exchange, "answer_next", answer)
    client, server = socket.socketpair()
    with client, server:
        # Two heads: the exchange does not parse the same head again.
        client.sendall(request + request.replace(b"Host: x", b"Host: y"))
        client.shutdown(socket.SHUT_WR)
        sys.setprofile(recorder)
        try:
            worker.handle(_Listener(), server, ("127.0.0.1", 1))
        finally:
            sys.setprofile(None)
        assert client.makefile("rb").read().count(b"HTTP/1.1 20") == 2
    return recorder.files()


def test_the_files_that_a_put_passes(worker: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert files_of_second(worker, REQUEST, monkeypatch) == FILES
    assert len(FILES) <= MAX_PUT_FILES


def test_the_number_of_files_that_a_read_passes(
    worker: Any, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    drain_all(writer)
    found = files_of_second(worker, READ, monkeypatch)
    assert "iot_api/query/readings.py" in found
    assert len(found) <= MAX_READ_FILES, sorted(found)
    assert not [file for file in found if "redis" in file], "the connection has proven the password"


class _Listener:
    def getsockname(self) -> tuple[str, int]:
        return ("127.0.0.1", 8000)
