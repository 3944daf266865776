"""The gunicorn worker on one connection: what it sends, in how many pieces, and when it closes."""

import email.utils
import logging
import re
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import gevent
import gevent.socket
import pytest
from gunicorn.http.errors import LimitRequestHeaders
from gunicorn.http.wsgi import Response

from iot_api.http.security_headers import security_lines
from iot_api.limits.memory_budget import CHARGE
from iot_api.server.connection import WsgiResponse
from support.api_worker import lone_worker

GET = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n"
PUT = b"PUT /a HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody"
OK = "200 OK"
Wsgi = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


@dataclass
class Counted:
    """A socket that records the data of each `send`."""

    real: Any
    pieces: list[bytes] = field(default_factory=list)

    def send(self, data: bytes) -> int:
        sent: int = self.real.send(data)
        self.pieces.append(bytes(data[:sent]))
        return sent

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)


class Log(logging.Logger):
    """gunicorn's logger has one more method."""

    def access(self, *_: object) -> None:
        """Log no requests."""


@dataclass
class Connection:
    """A worker that serves one connection after the other."""

    worker: Any

    def serve(self, app: Wsgi, sent: bytes) -> list[bytes]:
        """Return what the worker sends to a client that sends all at once and half-closes."""
        self.worker.wsgi = app
        client, server = socket.socketpair()
        counted = Counted(server)
        with client, server:
            client.settimeout(10)
            client.sendall(sent)
            client.shutdown(socket.SHUT_WR)
            listener = SimpleNamespace(getsockname=lambda: ("127.0.0.1", 8000))
            self.worker.handle(listener, counted, ("127.0.0.1", 1))
            received = client.makefile("rb").read()
        assert received == b"".join(counted.pieces)
        return counted.pieces


@pytest.fixture
def connection() -> Iterator[Connection]:
    """A worker."""
    with lone_worker(Log(__name__)) as worker:
        yield Connection(worker)


def answering(
    *pieces: bytes, length: int | None = None, status: str = OK, read: bool = True
) -> Wsgi:
    """Return an app with one answer to all requests."""

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if read:
            environ["wsgi.input"].read()
        headers = [("Content-Type", "text/plain")]
        if length is not None:
            headers.append(("Content-Length", str(length)))
        start_response(status, headers)
        return list(pieces)

    return app


def test_head_and_body_are_one_packet(connection: Connection) -> None:
    (answer,) = connection.serve(answering(b"12345", length=5), PUT)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"\r\nConnection: keep-alive\r\n" in head
    assert body == b"12345"


def test_a_streamed_answer_sends_its_head_with_the_first_piece(connection: Connection) -> None:
    first, second, third = connection.serve(answering(b"12", b"34", b"5", length=5), GET)
    assert first.endswith(b"\r\n\r\n12")
    assert (second, third) == (b"34", b"5")


def test_pipelined_requests_are_answered_in_order(connection: Connection) -> None:
    numbers = iter(range(10))

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        body = b"%d %b" % (next(numbers), environ["wsgi.input"].read())
        start_response(OK, [("Content-Length", str(len(body)))])
        return [body]

    pieces = connection.serve(app, PUT + GET + PUT)
    assert [each.rpartition(b"\r\n")[2] for each in pieces] == [b"0 body", b"1 ", b"2 body"]


@pytest.mark.parametrize(
    ("sent", "answers", "says"),
    [
        (GET * 2, 2, b"keep-alive"),
        (GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n") + GET, 1, b"close"),
        (GET.replace(b"1.1", b"1.0") + GET, 1, b"close"),
        (GET.replace(b"1.1\r\n", b"1.0\r\nConnection: keep-alive\r\n") * 2, 2, b"keep-alive"),
    ],
)
def test_keep_alive(connection: Connection, sent: bytes, answers: int, says: bytes) -> None:
    pieces = connection.serve(answering(b"x", length=1), sent)
    assert len(pieces) == answers
    assert b"\r\nConnection: %b\r\n" % says in pieces[-1]


def test_100_continue(connection: Connection) -> None:
    head, _, body = PUT.partition(b"\r\n\r\n")
    sent = head + b"\r\nExpect: 100-continue\r\n\r\n" + body
    first, second = connection.serve(answering(b"x", length=1), sent)
    assert first.startswith(b"HTTP/1.1 100 Continue\r\n")
    assert second.startswith(b"HTTP/1.1 200 OK\r\n")


def test_a_broken_answer_is_the_last(connection: Connection) -> None:
    """Otherwise the client would take the next answer for the rest of it."""
    asked = []

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
        asked.append(environ["PATH_INFO"])
        start_response(OK, [("Content-Length", "10")])
        yield b"12345"
        raise ZeroDivisionError

    (piece,) = connection.serve(app, GET * 3)
    assert piece.endswith(b"\r\n\r\n12345")
    assert asked == ["/a"]


def test_broken_chunks_have_no_end(connection: Connection) -> None:
    def app(_: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
        start_response(OK, [])
        yield b"12345"
        raise ZeroDivisionError

    answer = b"".join(connection.serve(app, GET * 3))
    assert answer.endswith(b"\r\n\r\n5\r\n12345\r\n")


@pytest.mark.parametrize(
    ("version", "seen"), [(b"1.0", "a reset"), (b"1.1", "the end, but no last chunk")]
)
def test_a_client_sees_that_an_answer_is_broken_off(
    connection: Connection, version: bytes, seen: str
) -> None:
    """The end of the connection is the regular end of an answer to HTTP/1.0."""

    def app(_: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
        start_response(OK, [])
        yield b"12345"
        raise ZeroDivisionError

    connection.worker.wsgi = app
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname(), 10)
        server, address = listener.accept()
        with client, server:
            client.sendall(GET.replace(b"1.1", version))
            client.shutdown(socket.SHUT_WR)
            connection.worker.handle(listener, server, address)
            try:
                answer = client.makefile("rb").read()
            except ConnectionResetError:
                assert seen == "a reset"
            else:
                assert (answer[-10:], seen) == (b"5\r\n12345\r\n", "the end, but no last chunk")


def test_a_broken_answer_holds_no_memory_while_its_client_does_not_close(
    connection: Connection,
) -> None:
    """Other requests need the memory, and can't take it from a connection after its last answer."""
    memory = connection.worker.memory

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
        environ[CHARGE](50 * 2**20)
        start_response(OK, [])
        yield b"12345"
        raise ZeroDivisionError

    connection.worker.wsgi = app
    with gevent.socket.create_server(("127.0.0.1", 0)) as listener:
        client = gevent.socket.create_connection(listener.getsockname(), 10)
        server, address = listener.accept()
        with client, server:
            client.sendall(GET)
            serving = gevent.spawn(connection.worker.handle, listener, server, address)
            assert client.makefile("rb").read().endswith(b"5\r\n12345\r\n")
            assert (serving.ready(), memory.used) == (False, 0)
        serving.get(timeout=10)


def test_an_app_that_fails_before_its_answer_is_500(connection: Connection) -> None:
    def app(_: dict[str, Any], __: Callable[..., Any]) -> Iterable[bytes]:
        raise ZeroDivisionError

    (answer,) = connection.serve(app, GET * 2)
    assert answer.startswith(b"HTTP/1.1 500 Internal Server Error\r\nConnection: close\r\n")
    assert b'"code":"internal"' in answer


def test_answers_are_always_closed(connection: Connection) -> None:
    class Body:
        closed = 0

        def __iter__(self) -> Iterator[bytes]:
            yield b"x"
            raise ZeroDivisionError

        def close(self) -> None:
            self.closed += 1

    body = Body()

    def app(_: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        start_response(OK, [("Content-Length", "2")])
        return body

    connection.serve(app, GET)
    assert body.closed == 1


@pytest.mark.parametrize("end", [b"", b"GET /a HTTP/1.1\r\nHost", b"\r\n"])
def test_a_client_that_left_is_sent_nothing(connection: Connection, end: bytes) -> None:
    assert len(connection.serve(answering(b"x", length=1), GET + end)) == 1


def test_an_unread_body_is_not_parsed_as_a_request(connection: Connection) -> None:
    sent = PUT.replace(b": 4", b": 31").replace(b"body", GET.ljust(31)) + GET
    pieces = connection.serve(answering(b"x", length=1, read=False), sent)
    assert len(pieces) == 2


def answer_of(
    kind: type, method: str, version: tuple[int, int], case: tuple[Any, ...], *, tls: bool = False
) -> bytes:
    """Return the bytes of an answer by gunicorn's class or ours."""
    status, headers, pieces, closes = case
    sent = bytearray()
    sock = SimpleNamespace(
        sendall=sent.extend, send_parts=lambda *parts: sent.extend(b"".join(parts))
    )
    request = SimpleNamespace(version=version, method=method, should_close=lambda: closes)
    answer = kind(request, sock, SimpleNamespace(protocol="http", is_ssl=tls))
    answer.start_response(status, headers)
    for piece in pieces:
        answer.write(piece)
    answer.close()
    return re.sub(rb"Date: [^\r]*", b"Date:", bytes(sent))


LENGTH = [("Content-Length", "5")]
CASES: list[tuple[Any, ...]] = [
    (OK, LENGTH, [b"12345"], False),
    (OK, LENGTH, [b"12345"], True),
    (OK, LENGTH, [b"12", b"345"], False),
    (OK, LENGTH, [b"", b"12345"], False),
    (OK, LENGTH, [b"1234567"], False),
    (OK, LENGTH, [b"123", b"4567"], False),
    (OK, LENGTH, [b"123"], False),
    (OK, LENGTH, [], False),
    (OK, [("Content-Length", "0")], [], False),
    (OK, [("Content-Length", "0")], [b""], False),
    (OK, [], [b"12", b"", b"345"], False),
    (OK, [], [], False),
    ("204 NO CONTENT", [], [], False),
    ("204 NO CONTENT", [], [b"x"], False),
    ("304 NOT MODIFIED", LENGTH, [], False),
    ("405 METHOD NOT ALLOWED", [*LENGTH, ("Allow", "PUT"), ("X-A", "é")], [b"12345"], False),
    (OK, [*LENGTH, ("Connection", "close"), ("Keep-Alive", "5")], [b"12345"], False),
]


@pytest.mark.parametrize("version", [(1, 1), (1, 0)])
@pytest.mark.parametrize("method", ["GET", "PUT", "HEAD"])
@pytest.mark.parametrize("case", CASES)
def test_the_bytes_equal_those_of_gunicorn(
    case: tuple[Any, ...], method: str, version: tuple[int, int]
) -> None:
    """But for the security headers."""
    gunicorn = answer_of(Response, method, version, case)
    for tls in (False, True):
        ours = answer_of(WsgiResponse, method, version, case, tls=tls)
        added = security_lines(tls=tls, replaced=frozenset()).encode()
        assert ours.count(added) == 1
        assert ours.replace(added, b"") == gunicorn


@pytest.mark.parametrize("version", [(1, 1), (1, 0)])
def test_the_bytes_of_a_201_equal_those_of_gunicorn(version: tuple[int, int]) -> None:
    case = ("201 CREATED", LENGTH, [b"12345"], False)
    gunicorn = answer_of(Response, "PUT", version, case)
    for tls in (False, True):
        assert answer_of(WsgiResponse, "PUT", version, case, tls=tls) == gunicorn


@pytest.mark.parametrize("kind", [WsgiResponse, Response])
def test_only_bytes_are_sent(kind: type) -> None:
    with pytest.raises(TypeError):
        answer_of(kind, "GET", (1, 1), (OK, LENGTH, ["12345"], False))


def test_the_date_is_now(connection: Connection) -> None:
    (answer,) = connection.serve(answering(b"x", length=1), GET)
    found = re.search(rb"\r\nDate: (.* GMT)\r\n", answer)
    assert found is not None
    date = email.utils.parsedate_to_datetime(found[1].decode())
    assert abs(date.timestamp() - time.time()) < 60
    assert email.utils.formatdate(date.timestamp(), usegmt=True) == found[1].decode()


def test_a_head_is_refused_at_its_limit(connection: Connection) -> None:
    """gunicorn would accept 800 KiB, and search all of them for every byte that arrives."""
    lines = b"".join(b"A%d: %b\r\n" % (each, b"x" * 1000) for each in range(50))
    assert connection.serve(never, b"GET / HTTP/1.1\r\n" + lines)[0].startswith(b"HTTP/1.1 431 ")


def test_trailers_are_refused_at_their_limit(connection: Connection) -> None:
    lines = b"".join(b"A%d: %b\r\n" % (each, b"x" * 1000) for each in range(50))
    head = b"PUT /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"

    def reads(environ: dict[str, Any], _: Callable[..., Any]) -> Iterable[bytes]:
        with pytest.raises(LimitRequestHeaders):
            environ["wsgi.input"].read()
        refused.append(True)
        return never(environ, _)

    refused: list[bool] = []
    connection.serve(reads, head + b"0\r\n" + lines + b"\r\n")
    assert refused


def never(_: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """An app that answers 200."""
    start_response(OK, [("Content-Length", "0")])
    return []
