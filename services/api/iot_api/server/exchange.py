"""The requests of one connection: how bytes become requests, and how each is answered.

A request has a head (the request line and the headers), and maybe a body. A PUT of readings that
has a Content-Length goes to the ingest endpoint, without WSGI. All other requests go to the WSGI
app.
"""

import re
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any

from gunicorn import util
from gunicorn.http.body import ChunkedReader, LengthReader
from gunicorn.http.errors import NoMoreData, UnsupportedTransferCoding
from gunicorn.http.message import RFC9110_5_3_SINGLETON_FIELDS, Request
from gunicorn.http.wsgi import create
from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

from iot_api.http.client_certificate import CLIENT_CERTIFICATE
from iot_api.http.refusal_pace import DELAY
from iot_api.http.request import CONNECTION, PROVEN, REPEATED
from iot_api.http.responses import status_line
from iot_api.http.security_headers import security_lines
from iot_api.http.unexpected_errors import log_defect
from iot_api.limits.memory_budget import CHARGE

from .connection import (
    MAX_HEAD_BYTES,
    Connection,
    ConnectionReader,
    ConnectionWriter,
    PutHead,
    PutRequest,
    SizedBody,
    WsgiResponse,
    client_closes,
    first_lines,
    is_unread,
)
from .phase import ClientGoneError
from .unread_bodies import DISCARDED_BYTES, discard_body, half_close

if TYPE_CHECKING:
    from .gunicorn_worker import ApiWorker, Ingest

_KNOWN_HEADS = 1024
_KNOWN_HEAD_BYTES = 1024
_KNOWN_HEAD_FIELDS = 32
"""A process remembers parsed heads of PUTs. `_KNOWN_HEADS` limits the number of heads,
`_KNOWN_HEAD_BYTES` the bytes of a head, and `_KNOWN_HEAD_FIELDS` the number of headers in a head.
A head is remembered before its token is checked, and a parsed header takes 200 bytes or more. So
the limits bound the memory that clients without a token can use."""
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_METHODS = rb"(?:GET|HEAD|POST|PUT|DELETE|OPTIONS|PATCH) "
_PLAIN_LINE = re.compile(_METHODS + rb"/[\x21-\x7e]*+ HTTP/1\.[01]\r\n")
_HEAD = re.compile(
    _METHODS + rb"[\x21-\x7e]++ HTTP/1\.[01]\r\n"
    rb"(?:[!#$%&'*+\-.^`|~0-9A-Za-z]++:[\t\x20-\x7e\x80-\xff]*+\r\n)*+\r\n"
)
"""Heads that llhttp may parse: RFC 9112 with the methods `_METHODS`, no underscore in header names.
llhttp would also accept HTTP/2.0, several spaces in the request line, and empty lines before the
request line."""
_ASTERISK = ("OPTIONS", "*")
_SECURITY_LINES = {tls: security_lines(tls=tls, replaced=frozenset()) for tls in (False, True)}


class _Head:
    """The parts of a request's head, as llhttp finds them."""

    __slots__ = ("headers", "is_complete", "method", "target", "version")

    def __init__(self) -> None:
        self.method = ""
        self.version = (1, 1)
        self.target = b""
        self.headers: list[tuple[bytes, bytes]] = []
        self.is_complete = False

    def on_url(self, target: bytes) -> None:
        self.target += target

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        self.is_complete = True


def _parse(head: bytes) -> _Head | None:
    """Parse a head with llhttp; return None if llhttp refuses it."""
    found = _Head()
    parser = HttpRequestParser(found)
    try:
        parser.feed_data(head)
    except HttpParserUpgrade:
        pass  # the service speaks HTTP/1 only
    except HttpParserError:
        return None
    found.method = parser.get_method().decode()
    found.version = (1, 0) if parser.get_http_version() == "1.0" else (1, 1)
    return found if found.is_complete else None


class ApiRequest(Request):  # type: ignore[misc] # gunicorn has no types
    """gunicorn's `Request`, with a faster parser of the head.

    llhttp parses a head that matches `_HEAD`. All other heads, and heads that llhttp refuses, go to
    gunicorn's own parser, which accepts some of them: for example a head with a rare method, or
    one after an empty line. gunicorn also decides how long the body is.
    """

    body: Any
    is_plain = False
    """Whether llhttp has parsed the head."""
    _expected_100_continue: bool

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.expects_continue: bool = self._expected_100_continue
        """Whether the client waits for `100 Continue`."""
        # gunicorn's `create` would send `100 Continue` before the application has checked the head.
        self._expected_100_continue = False

    def parse(self, unreader: Any) -> bytes:
        """Receive and parse the head; return the bytes that were received behind it."""
        if self.cfg.proxy_protocol != "off":
            return super().parse(unreader)  # type: ignore[no-any-return]
        data: bytes = unreader.read()
        if not data:
            raise StopIteration
        end = data.find(b"\r\n\r\n")
        while end < 0 and self._may_become_valid(data):
            more = unreader.read()
            if not more:
                raise NoMoreData(data)
            searched = max(0, len(data) - 3)
            data += more
            end = data.find(b"\r\n\r\n", searched)
        if end >= 0 and self._parse_head(data[: end + 4]):
            self.is_plain = True
            return data[end + 4 :]
        unreader.unread(data)
        return super().parse(unreader)  # type: ignore[no-any-return]

    def should_close(self) -> bool:
        """Return whether the connection ends after the answer."""
        # RFC 9931, 8: the bytes behind a CONNECT are never another request.
        return (
            self.must_close or self.method == "CONNECT" or client_closes(self.version, self.headers)
        )

    def _may_become_valid(self, data: bytes) -> bool:
        """Return whether `data`, the beginning of a head, can still become a valid head."""
        if data.count(b"\n") != data.count(b"\r\n") or data.startswith(b"\r"):
            return False
        end = data.find(b"\r\n")
        if 0 < self.limit_request_line < (end if end >= 0 else len(data) - 2):
            return False
        return end < 0 or _PLAIN_LINE.match(data) is not None

    def _parse_head(self, head: bytes) -> bool:
        """Parse a head with llhttp.

        Return False, and change nothing, if gunicorn's parser must parse the head.
        """
        count = head.count(b"\r\n") - 2
        if count > self.limit_request_fields or not _HEAD.fullmatch(head):
            return False
        found = None if self._has_long_line(head) else _parse(head)
        if found is None or len(found.headers) != count:
            return False
        target = found.target.decode()
        headers = [
            (name.decode().upper(), value.decode("latin-1").strip(" \t"))
            for name, value in found.headers
        ]
        expectations = {value.lower() for name, value in headers if name == "EXPECT"}
        if self._is_special(found.method, target, headers, expectations):
            return False
        try:
            parts = util.split_request_uri(target)
        except ValueError:
            return False
        self.method, self.uri, self.version, self.headers = (
            found.method, target, found.version, headers,
        )  # fmt: skip
        self.path, self.query, self.fragment = parts.path, parts.query, parts.fragment
        # HTTP/1.0 has no interim responses (RFC 9110, 10.1.1).
        self._expected_100_continue = bool(expectations) and self.version > (1, 0)
        return True

    def _has_long_line(self, head: bytes) -> bool:
        line_limit = self.limit_request_line or MAX_HEAD_BYTES
        if len(head) <= min(line_limit, self.limit_request_field_size):
            return False
        first, *others = head.split(b"\r\n")
        return len(first) > line_limit or any(
            len(line) + 2 > self.limit_request_field_size for line in others
        )

    def _is_special(
        self, method: str, target: str, headers: list[tuple[str, str]], expectations: set[str]
    ) -> bool:
        """Return whether gunicorn's parser must parse a head, because of its target or headers.

        That parser has rules for unusual targets, headers that may occur only once, headers of
        trusted proxies, and `Expect`.
        """
        names = [name for name, _ in headers]
        if any(names.count(name) > 1 for name in RFC9110_5_3_SINGLETON_FIELDS):
            return True
        if not target.startswith("/") and "://" not in target and (method, target) != _ASTERISK:
            return True
        if not self.cfg.secure_scheme_headers.keys().isdisjoint(names):
            return bool(self._peer_is_trusted_proxy())
        return not expectations <= {"100-continue"}


class Exchange:
    """The requests and answers on one connection."""

    def __init__(
        self, server: "ApiWorker", connection: Connection, address: Any, listener_name: Any
    ) -> None:
        self.connection = connection
        self.reader = ConnectionReader(connection, server.memory)
        self.writer = ConnectionWriter(connection, server.memory)
        self._address = address
        self._listener_name = listener_name
        self._server = server
        self._ingest = None if connection.reserved else server.ingest
        self._count = 0
        self._variables: dict[str, Any] = {}

    @property
    def host(self) -> str:
        """The client's address, for the log."""
        return str(self._address[0]) if self._address else "a Unix socket"

    def run(self) -> None:
        """Answer all requests. Never returns: raises `StopIteration` or `OSError` at the end."""
        connection, reader = self.connection, self.reader
        while True:
            self.answer_next()
            connection.await_request(head_began=bool(reader.ahead))
            if reader.ahead:
                reader.take_turns(connection.since)

    def answer_next(self) -> None:
        """Receive a request and answer it. Raises `StopIteration` if the connection ends."""
        connection, memory = self.connection, self._server.memory
        request = self._next_request()
        connection.start_request(request)
        if request.expects_continue and is_unread(request.body):
            self.reader.send_continue = partial(self.writer.sendall, _CONTINUE)
        try:
            if isinstance(request, PutRequest):
                closes = self._answer_put(request)
            else:
                _check_transfer_coding(request)
                closes = self._answer_by_app(request)
        finally:
            if memory.used:  # most requests have no charge
                memory.release(connection)
        if not closes and is_unread(request.body):
            closes = not discard_body(connection, request.body)
        if closes:
            half_close(connection, shuts_down=not self._server.alive)
            raise StopIteration

    def _next_request(self) -> ApiRequest | PutRequest:
        reader, ingest, heads = self.reader, self._ingest, self._server.put_heads
        data = reader.ahead or reader.chunk()
        if not data:
            raise StopIteration
        end = data.find(b"\r\n\r\n") + 4
        text = data[:end] if 4 <= end <= _KNOWN_HEAD_BYTES else b""
        head = heads.get(text)
        if head is not None and ingest is not None:
            reader.ahead = data[end:]
            return PutRequest(head, reader)
        reader.ahead = data
        self._count += 1
        request = ApiRequest(self._server.cfg, reader, self._address, self._count)
        head = None if ingest is None else _put_head(request, ingest)
        if head is None:
            return request
        if text and len(head.headers) <= _KNOWN_HEAD_FIELDS:
            if len(heads) >= _KNOWN_HEADS:
                heads.clear()
            heads[text] = head
        return PutRequest(head, reader)

    def _answer_put(self, request: PutRequest) -> bool:
        """Answer a PUT by the ingest endpoint; return whether the connection ends."""
        server, writer, head = self._server, self.writer, request.head
        own = self._variables or self._own_variables()
        environ = {**head.variables, **own, "wsgi.input": request.body}
        writer.environ = environ
        response = self._ingest.answer(environ, head.route)  # type: ignore[union-attr] # it is set
        if DELAY in environ:
            self._delay(environ[DELAY])
        closes = request.must_close or not server.alive
        if request.body.left and not closes:
            closes = self._loses_next(request.body)
        lines = first_lines(head.version, status_line(response.status), closes=closes)
        if response.status != 201:  # `security_headers` says why
            lines += _SECURITY_LINES[bool(server.cfg.is_ssl)]
        lines += "".join([f"{name}: {value}\r\n" for name, value in response.headers])
        writer.sendall(f"{lines}\r\n".encode("latin-1") + response.body)
        return closes

    def _answer_by_app(self, request: ApiRequest) -> bool:
        """Answer a request by the WSGI app; return whether the connection ends.

        Raises:
            ClientGoneError: the client is gone. Or an answer of unknown length was cut off; then
                the connection is reset: the client would take a normal close for the answer's end.
        """
        connection, writer, server = self.connection, self.writer, self._server
        answer, environ = create(
            request, writer, self._address, self._listener_name, server.cfg, WsgiResponse
        )
        # Greenlets count as threads, as in gunicorn's own asynchronous workers.
        environ["wsgi.multithread"] = True
        environ.update(self._worker_variables())
        environ[CONNECTION] = connection
        environ.update(_repeated(request.headers))
        writer.environ = environ
        if connection.reserved or not server.alive:
            answer.force_close()
        try:
            self._send_answer(request, answer, environ)
        except ClientGoneError:
            raise
        except Exception as error:
            if not answer.headers_sent:
                raise  # the worker answers 500
            log_defect(server.log, "an answer was cut off", error)
            if answer.chunked or answer.response_length is not None:
                return True  # the client sees that a part is missing
            connection.reset_at_close()
            raise ClientGoneError from None
        return bool(answer.should_close())

    def _send_answer(
        self, request: ApiRequest, answer: WsgiResponse, environ: dict[str, Any]
    ) -> None:
        server = self._server
        app = server.answer_from_reserve if self.connection.reserved else server.wsgi
        body = app(environ, answer.start_response)
        try:
            if is_unread(request.body) and self._loses_next(request.body):
                answer.force_close()
            if DELAY in environ:
                self._delay(environ[DELAY])
            for piece in body:
                answer.write(piece)
            answer.close()
        finally:
            if hasattr(body, "close"):
                body.close()

    def _loses_next(self, body: Any) -> bool:
        """Return whether the connection must end, because a body is not read completely.

        The start of the next request may be unknown, or too far away. It is unknown after a final
        status in place of `100 Continue`: clients may or may not send the body (RFC 9110, 10.1.1).
        """
        left = body.left if type(body) is SizedBody else getattr(body.reader, "length", 0)
        expected = self.reader.send_continue is not None
        return body.failed or expected or left > DISCARDED_BYTES

    def _delay(self, seconds: float) -> None:
        """Delay an error answer, unless the process shuts down or the connection is closed."""
        if self._server.alive and not self.connection.closing:
            self._server.memory.release(self.connection)
            self.connection.delay(seconds)

    def _worker_variables(self) -> dict[str, Any]:
        """Return the variables that the worker adds to the environ of every request."""
        variables: dict[str, Any] = {
            CHARGE: partial(self._server.memory.charge, self.connection),
            PROVEN: self.connection.proven,
        }
        if self.connection.certificate is not None:
            variables[CLIENT_CERTIFICATE] = self.connection.certificate
        return variables

    def _own_variables(self) -> dict[str, Any]:
        """Return the WSGI variables that are the same for all PUTs of the connection."""
        address = self.host if self._address else ""
        self._variables = {"REMOTE_ADDR": address, **self._worker_variables()}
        return self._variables


def _put_head(request: ApiRequest, ingest: "Ingest") -> PutHead | None:
    """Return the head of a PUT for the ingest endpoint, None for other requests."""
    body = request.body.reader
    if not request.is_plain or request.method != "PUT" or not isinstance(body, LengthReader):
        return None
    path = util.unquote_to_wsgi_str(request.path)
    route = ingest.route_of(path)
    if route is None:
        return None
    variables: dict[str, Any] = {
        "REQUEST_METHOD": "PUT",
        "RAW_URI": request.uri,
        "PATH_INFO": path,
        "QUERY_STRING": request.query,
        "SERVER_PROTOCOL": f"HTTP/1.{request.version[1]}",
        **_repeated(request.headers),
    }
    for name, value in request.headers:
        key = name.replace("-", "_")
        if key not in {"CONTENT_TYPE", "CONTENT_LENGTH"}:
            key = f"HTTP_{key}"
        variables[key] = f"{variables[key]},{value}" if key in variables else value
    return PutHead(
        request.version,
        request.headers,
        route,
        variables,
        body.length,
        request.expects_continue,
        request.should_close(),
    )


def _repeated(headers: list[tuple[str, str]]) -> dict[str, Any]:
    """Return the names of repeated headers as an item of the WSGI environment; {} if none is."""
    counts = Counter([name for name, _ in headers])
    if len(counts) == len(headers):
        return {}
    return {REPEATED: frozenset(name for name, count in counts.items() if count > 1)}


def _check_transfer_coding(request: Any) -> None:
    """Refuse a request with another transfer coding than `chunked`, and limit its trailers.

    gunicorn 27 would accept `gzip, chunked` and pass the compressed bytes on as the body. It would
    accept trailers of 800 KiB.
    """
    if isinstance(request.body.reader, ChunkedReader):
        codings = [value for name, value in request.headers if name == "TRANSFER-ENCODING"]
        if [coding.strip().lower() for coding in codings] != ["chunked"]:
            raise UnsupportedTransferCoding("")
        request.body.reader.limit_trailer_section = MAX_HEAD_BYTES
