"""The gunicorn worker with clients that read slowly or never, on gevent's sockets."""

import logging
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import gevent
import gevent.event
import gevent.socket
import pytest

from iot_api.http.refusal_pace import DELAY
from iot_api.http.request import CONNECTION
from iot_api.server import deadlines
from iot_api.server.gunicorn_worker import ABORT_SECONDS, Limits
from iot_api.server.phase import Phase
from iot_api.server.slow_send import PAUSE
from iot_models.errors import UnavailableError
from iot_models.origins import parse_origins
from support.answers import answer_of
from support.api_worker import lone_worker

GET = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n"
PIECE = bytes(2**22)
"""More than the kernel buffers of a pair of Unix sockets hold."""
PATIENCE = 120


@dataclass
class LongAnswers:
    """A WSGI app with long answers. It records the calls of the worker."""

    pieces: int = 1
    pauses: int = 0
    closed: int = 0
    paused: Any = field(default_factory=gevent.event.Event)
    ended: Any = field(default_factory=gevent.event.Event)

    def __call__(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        environ[PAUSE] = self.pause
        start("200 OK", [("Content-Length", str(self.pieces * len(PIECE)))])
        return self

    def __iter__(self) -> Iterator[bytes]:
        for _ in range(self.pieces):
            self.paused.clear()
            yield PIECE

    def pause(self) -> None:
        self.pauses += 1
        self.paused.set()

    def close(self) -> None:
        self.closed += 1
        self.ended.set()


@dataclass
class Worker:
    """A worker whose deadlines are enforced, in greenlets of this thread."""

    real: Any

    def connect(self) -> Any:
        """Return the client's side of a new connection."""
        client, server = gevent.socket.socketpair()
        listener = SimpleNamespace(getsockname=lambda: ("127.0.0.1", 8000))
        gevent.spawn(self.real.handle, listener, server, ("127.0.0.1", 1))
        return client

    def connect_by_tcp(self) -> Any:
        """Return the client's side of a new TCP connection. Unix sockets send no RST."""
        listener = gevent.socket.create_server(("127.0.0.1", 0))
        self.real.sockets = [listener]  # the worker starts a server for it, which closes it
        return gevent.socket.create_connection(listener.getsockname())


@pytest.fixture
def worker() -> Iterator[Worker]:
    """Return a worker with an app that gives long answers."""
    with lone_worker(logging.getLogger(__name__)) as real:
        real.ppid = os.getppid()
        real.wsgi = LongAnswers()
        run = gevent.spawn(real.run)
        yield Worker(real)
        run.kill()


def receive(client: Any, count: int) -> int:
    """Receive up to `count` bytes; return how many came."""
    received = 0
    while received < count and (data := client.recv(2**20)):
        received += len(data)
    return received


def head_of(client: Any) -> bytes:
    data: bytes = client.recv(2**16)
    return data.partition(b"\r\n\r\n")[0]


def test_a_blocked_piece_pauses_the_application_once(worker: Worker) -> None:
    app = worker.real.wsgi = LongAnswers(pieces=2)
    with gevent.Timeout(PATIENCE), worker.connect() as client:
        client.sendall(GET)
        assert app.paused.wait()
        first = receive(client, len(PIECE))
        assert app.paused.wait()  # the second piece is blocked, too
        assert receive(client, 2 * len(PIECE) - first) >= 2 * len(PIECE) - first
        assert app.ended.wait()
    assert (app.pauses, app.closed) == (2, 1)


def test_a_blocked_answer_in_chunks_arrives_whole(worker: Worker) -> None:
    pieces = [bytes([number]) * (len(PIECE) + number) for number in range(1, 4)]

    def app(_: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        start("200 OK", [])
        return iter(pieces)

    worker.real.wsgi = app
    with gevent.Timeout(PATIENCE), worker.connect() as client:
        client.sendall(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        assert answer_of(client)[2] == b"".join(pieces)


def test_a_quick_client_pauses_nothing(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("iot_api.server.slow_send.PAUSE_SECONDS", PATIENCE)
    app = worker.real.wsgi = LongAnswers(pieces=3)
    with gevent.Timeout(PATIENCE), worker.connect() as client:
        client.sendall(GET)
        assert receive(client, 3 * len(PIECE)) >= 3 * len(PIECE)
        assert app.ended.wait()
    assert app.pauses == 0


def test_a_client_that_never_reads_is_closed(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deadlines, "SEND_GRACE_SECONDS", 0.5)
    app = worker.real.wsgi
    with gevent.Timeout(PATIENCE), worker.connect() as client:
        client.sendall(GET)
        assert app.ended.wait()
        assert receive(client, len(PIECE)) < len(PIECE)
    assert (app.pauses, app.closed) == (1, 1)


def test_a_client_that_reads_too_slowly_is_closed(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deadlines, "SEND_GRACE_SECONDS", 0.5)
    monkeypatch.setattr("iot_api.server.connection.SEND_BYTES_PER_SECOND", 2**30)
    app = worker.real.wsgi
    with gevent.Timeout(PATIENCE), worker.connect() as client:
        client.sendall(GET)
        while not app.ended.wait(0.05):
            client.recv(1000)
    assert app.closed == 1


def test_a_client_that_pipelines_and_never_reads_is_closed(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deadlines, "SEND_GRACE_SECONDS", 0.5)
    answered = 0
    closed = gevent.event.Event()

    def app(_: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        nonlocal answered
        answered += 1
        start("200 OK", [("Content-Length", "1000")])
        return [bytes(1000)]

    def send(client: Any) -> None:
        try:
            while True:
                client.sendall(GET * 1000)
        except OSError:
            closed.set()

    worker.real.wsgi = app
    with gevent.Timeout(PATIENCE), worker.connect() as client:
        sender = gevent.spawn(send, client)
        assert closed.wait()
        sender.join()
    assert 0 < answered < 100_000


def test_a_pause_that_fails_breaks_the_answer_off(worker: Worker) -> None:
    class Broken(LongAnswers):
        def pause(self) -> None:
            raise ZeroDivisionError

    app = worker.real.wsgi = Broken()
    with gevent.Timeout(PATIENCE), worker.connect() as client:
        client.sendall(GET)
        assert app.ended.wait()
        assert receive(client, len(PIECE)) < len(PIECE)


def test_blocked_answers_count_against_the_memory(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The budget has room for one of two answers: the other is closed."""
    monkeypatch.setattr("iot_api.limits.memory_budget.SLOW_SECONDS", 0)
    monkeypatch.setattr("iot_api.limits.memory_budget.SLOW_BYTES_PER_SECOND", 2**40)
    worker.real.limit(Limits(memory_bytes=len(PIECE) * 3 // 2))
    apps = []
    with gevent.Timeout(PATIENCE), worker.connect() as first, worker.connect() as second:
        for client in (first, second):
            app = worker.real.wsgi = LongAnswers()
            apps.append(app)
            client.sendall(GET)
            assert app.paused.wait()
        assert apps[0].ended.wait()
        assert receive(first, len(PIECE)) < len(PIECE)
        assert receive(second, len(PIECE)) >= len(PIECE)
        assert apps[1].ended.wait()


@pytest.mark.parametrize("reason", ["memory", "shutdown"])
def test_an_answer_that_is_cut_off_ends_with_a_reset(worker: Worker, reason: str) -> None:
    """A client of HTTP/1.0 would take a normal close for the end of the answer."""
    app = worker.real.wsgi = LongAnswers(pieces=4)
    if reason == "memory":
        worker.real.limit(Limits(memory_bytes=1))
    with gevent.Timeout(PATIENCE), worker.connect_by_tcp() as client:
        client.sendall(GET.replace(b"1.1", b"1.0"))
        if reason == "shutdown":
            assert app.paused.wait()
            worker.real.cfg.__dict__["graceful_timeout"] = ABORT_SECONDS
            worker.real.alive = False
        assert app.ended.wait()
        with pytest.raises(ConnectionResetError):
            receive(client, 4 * len(PIECE))


def test_a_quick_client_whose_answer_is_cut_off_at_shutdown_gets_a_reset(worker: Worker) -> None:
    """It has received all bytes, and waits for the application like the worker."""

    def app(_: dict[str, Any], start: Callable[..., Any]) -> Iterator[bytes]:
        start("200 OK", [])
        yield b"half"
        gevent.sleep(PATIENCE)

    worker.real.wsgi = app
    with gevent.Timeout(PATIENCE), worker.connect_by_tcp() as client:
        client.sendall(GET.replace(b"1.1", b"1.0"))
        while not client.recv(2**16).endswith(b"half"):
            pass
        worker.real.cfg.__dict__["graceful_timeout"] = ABORT_SECONDS
        worker.real.alive = False
        with pytest.raises(ConnectionResetError):
            client.recv(1)


def test_a_slow_client_gets_the_reset_before_the_application_ends_its_work(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deadlines, "SEND_GRACE_SECONDS", 0.5)
    received = gevent.event.Event()

    class Busy(LongAnswers):
        def close(self) -> None:
            super().close()
            received.wait()

    app = worker.real.wsgi = Busy()
    with gevent.Timeout(PATIENCE), worker.connect_by_tcp() as client:
        client.sendall(GET.replace(b"1.1", b"1.0"))
        assert app.ended.wait()
        with pytest.raises(ConnectionResetError):
            receive(client, len(PIECE))
        received.set()


def test_a_connection_closed_while_its_body_is_discarded_gets_one_answer(
    worker: Worker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("iot_api.server.connection_table.STALLED_SECONDS", 0)
    worker.real.limit(Limits(connections=1))
    worker.real.wsgi = lambda _, start: start("200 OK", [("Content-Length", "0")]) and []
    with gevent.Timeout(PATIENCE), worker.connect() as first:
        first.sendall(b"PUT /a HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nbody")
        received = first.recv(2**16)
        (connection,) = worker.real._connections  # noqa: SLF001
        while connection.phase is not Phase.BODY:
            gevent.sleep(0)
        with worker.connect():  # takes the room of the first
            while data := first.recv(2**16):
                received += data
    assert received.count(b"HTTP/1.1") == 1
    assert "defect" not in caplog.text


@pytest.mark.parametrize(
    ("sent", "phase"),
    [
        (GET, Phase.DELAYED),
        (b"PUT /a HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nbody", Phase.BODY),
    ],
    ids=["delayed", "incomplete"],
)
def test_a_connection_closed_for_room_gets_its_delayed_answer(
    worker: Worker, monkeypatch: pytest.MonkeyPatch, sent: bytes, phase: Phase
) -> None:
    """The connection is closed during the delay, or while the body arrives."""
    monkeypatch.setattr("iot_api.server.connection_table.STALLED_SECONDS", 0)

    def app(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        with suppress(UnavailableError):
            environ["wsgi.input"].read()
        environ[DELAY] = 2 * PATIENCE
        start("400 Bad Request", [("Content-Length", "2")])
        return [b"no"]

    worker.real.limit(Limits(connections=1))
    worker.real.wsgi = app
    with gevent.Timeout(PATIENCE), worker.connect() as first:
        first.sendall(sent)
        while phase not in [each.phase for each in worker.real._connections]:  # noqa: SLF001
            gevent.sleep(0)
        with worker.connect():  # takes the room of the first
            status, headers, body = answer_of(first)
    assert (status, headers["Connection"], body) == (400, "close", b"no")


def test_a_closed_connection_does_not_wait_until_its_client_reads(worker: Worker) -> None:
    """Its place is given to another connection, so it may hold nothing any longer."""
    app = LongAnswers()

    def closed(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        environ[CONNECTION].closing = True
        return app(environ, start)

    worker.real.wsgi = closed
    with gevent.Timeout(PATIENCE), worker.connect() as client:
        client.sendall(GET)
        assert app.ended.wait()
        assert receive(client, len(PIECE)) < len(PIECE)
    assert (app.pauses, app.closed) == (0, 1)


def test_a_busy_process_answers_health_checks_only(
    worker: Worker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Health checks are answered from the reserve, which newer connections take over."""
    monkeypatch.setattr(deadlines, "RESERVE_SECONDS", PATIENCE)
    monkeypatch.setattr("iot_api.server.connection_table.STALLED_SEND_SECONDS", PATIENCE)
    monkeypatch.setattr(deadlines, "SEND_GRACE_SECONDS", PATIENCE)
    worker.real.limit(Limits(connections=2))
    with gevent.Timeout(PATIENCE), ExitStack() as opened:

        def connect() -> Any:
            return opened.enter_context(worker.connect())

        for _ in range(2):
            app = worker.real.wsgi = LongAnswers()
            connect().sendall(GET)
            assert app.paused.wait()
        worker.real.wsgi = healthy
        silent = [connect() for _ in range(100)]
        probe = connect()
        probe.sendall(GET.replace(b"/a", b"/healthz"))
        head = head_of(probe)
        assert head.startswith(b"HTTP/1.1 200 ")
        assert b"\r\nConnection: close\r\n" in head
        for request in (GET, GET.replace(b"GET", b"HEAD")):
            other = connect()
            other.sendall(request)
            head = head_of(other)
            assert head.startswith(b"HTTP/1.1 503 ")
            assert b"\r\nRetry-After: 1\r\n" in head
            assert b"\r\nConnection: close\r\n" in head
        monkeypatch.setattr(deadlines, "RESERVE_SECONDS", 0)
        for client in silent:
            assert client.recv(1) == b""
    assert not caplog.messages


def test_a_web_page_can_read_the_503_of_a_busy_process(worker: Worker) -> None:
    """The preflight succeeds: a browser does not show the reason of a failed preflight."""
    worker.real.limit(Limits(connections=1))
    worker.real.allow(parse_origins("https://*.example.org"))
    origin = b"Origin: https://app.example.org\r\n"
    asks = b"Access-Control-Request-Method: PUT\r\n"
    preflight = GET.replace(b"GET", b"OPTIONS").replace(
        b"\r\n\r\n", b"\r\n" + origin + asks + b"\r\n"
    )
    put = GET.replace(b"GET", b"PUT").replace(b"\r\n\r\n", b"\r\n" + origin + b"\r\n")
    with gevent.Timeout(PATIENCE), worker.connect() as busy:
        app = worker.real.wsgi = LongAnswers()
        busy.sendall(GET)
        assert app.paused.wait()
        for request, status in [(preflight, b"204"), (put, b"503")]:
            with worker.connect() as client:
                client.sendall(request)
                head = head_of(client)
            assert head.startswith(b"HTTP/1.1 " + status)
            assert b"\r\nAccess-Control-Allow-Origin: https://app.example.org\r\n" in head
            assert (b"\r\nAccess-Control-Allow-Methods: " in head) == (request is preflight)


def healthy(_: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
    start("200 OK", [("Content-Length", "2")])
    return [b"ok"]
