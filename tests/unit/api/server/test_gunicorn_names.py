"""The undocumented parts of gunicorn that the worker uses: an update may rename any of them."""

import inspect
from types import SimpleNamespace
from typing import Any

import pytest
from gunicorn import util
from gunicorn.config import Config
from gunicorn.http import errors
from gunicorn.http.body import Body, ChunkedReader, LengthReader
from gunicorn.http.parser import RequestParser
from gunicorn.http.unreader import SocketUnreader
from gunicorn.http.wsgi import Response, create
from gunicorn.workers.base_async import AsyncWorker
from gunicorn.workers.ggevent import GeventWorker

from iot_api.http.malformed_requests import REFUSALS

HEAD = b"PUT /a HTTP/1.1\r\nHost: x\r\n"


class Source:
    """A socket that delivers `parts` and then the end of the stream."""

    def __init__(self, *parts: bytes) -> None:
        self.parts = list(parts)
        self.sizes: list[int] = []

    def recv(self, size: int) -> bytes:
        self.sizes.append(size)
        return self.parts.pop(0) if self.parts else b""


def parser_of(*parts: bytes) -> Any:
    return RequestParser(Config(), Source(*parts), ("127.0.0.1", 1))


def test_the_parser_receives_through_its_unreader() -> None:
    parser = parser_of()
    assert type(parser.unreader) is SocketUnreader
    assert SocketUnreader.max_body_chunk
    replaced = parser.unreader = SocketUnreader(Source(HEAD + b"\r\n"))
    assert next(parser).unreader is replaced
    assert inspect.signature(SocketUnreader.chunk).parameters.keys() == {"self", "size_hint"}


def test_the_unreader_buffers_the_next_request() -> None:
    parser = parser_of(HEAD + b"\r\nGET")
    next(parser)
    assert parser.unreader.buf.tell() == 3


def test_a_length_reader_knows_the_rest_of_its_body() -> None:
    body = next(parser_of(HEAD + b"Content-Length: 4\r\n\r\n", b"body")).body
    assert (type(body), type(body.reader), body.reader.length) == (Body, LengthReader, 4)
    assert (body.read(3), body.reader.length, body.failed) == (b"bod", 0, False)
    assert next(parser_of(HEAD + b"\r\n")).body.reader.length == 0


def test_a_chunked_reader_knows_its_end() -> None:
    chunks = b"Transfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n"
    body = next(parser_of(HEAD + chunks)).body
    assert type(body.reader) is ChunkedReader
    assert body.reader.parser is not None
    assert body.read() == b"body"
    assert body.reader.parser is None


def test_a_failed_body_ends_its_connection() -> None:
    parser = parser_of(HEAD + b"Transfer-Encoding: chunked\r\n\r\nx\r\n")
    body = next(parser).body
    with pytest.raises(errors.InvalidChunkSize):
        body.read()
    assert body.failed
    # The worker empties these.
    assert all(hasattr(each, "buf") for each in (body, body.reader, parser.unreader))
    with pytest.raises(StopIteration):
        next(parser)


def test_force_close_makes_a_request_the_last() -> None:
    request = next(parser_of(HEAD + b"\r\n"))
    assert not request.should_close()
    request.force_close()
    assert request.should_close()


def test_gunicorn_accepts_transfer_codings_that_the_worker_refuses() -> None:
    """gunicorn refuses some of them, and passes on the compressed bytes of the others."""
    request = next(parser_of(HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n"))
    assert ("TRANSFER-ENCODING", "gzip, chunked") in request.headers


def test_an_answer_is_sent_by_sendall() -> None:
    request = next(parser_of(HEAD + b"\r\n"))
    sent = bytearray()
    sock = SimpleNamespace(sendall=sent.extend)
    answer, environ = create(request, sock, ("127.0.0.1", 1), ("127.0.0.1", 2), Config(), Response)
    assert environ["wsgi.input"] is request.body
    answer.start_response("200 OK", [])
    for name in ("sent", "headers_sent", "response_length", "_omits_body", "chunked", "headers"):
        assert hasattr(answer, name), name
    answer.write(b"x")
    answer.close()
    assert sent.endswith(b"1\r\nx\r\n0\r\n\r\n")
    util.write(sock, b"y")
    assert sent.endswith(b"y")


def test_the_methods_that_the_worker_overrides() -> None:
    for kind, name in (
        (GeventWorker, "handle"),
        (GeventWorker, "patch"),
        (GeventWorker, "run"),
        (GeventWorker, "notify"),
        (AsyncWorker, "handle"),
        (GeventWorker, "handle_exit"),
    ):
        assert callable(getattr(kind, name))
    assert inspect.signature(GeventWorker.handle).parameters.keys() == {
        "self", "listener", "client", "addr",
    }  # fmt: skip


def test_every_parse_error_has_a_response() -> None:
    """Errors that a later gunicorn adds make the test fail."""
    kinds = {
        each
        for each in vars(errors).values()
        if isinstance(each, type) and issubclass(each, errors.ParseException)
    }
    not_of_requests = {
        errors.ParseException,
        errors.ConfigurationProblem,
        errors.InvalidResponseHeader,
        errors.InvalidResponseHeaderName,
        # Of protocols that are switched off.
        errors.InvalidProxyLine,
        errors.InvalidProxyHeader,
        errors.ForbiddenProxyRequest,
        errors.InvalidSchemeHeaders,
        errors.InvalidH2CPreface,
    }
    assert set(REFUSALS) == kinds - not_of_requests
