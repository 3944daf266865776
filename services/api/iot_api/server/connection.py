"""One client connection: its state, and how it receives requests and sends answers."""

import io
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

import gevent
import gevent.socket
from gevent.event import Event
from gunicorn import SERVER, util
from gunicorn.http.body import Body, ChunkedReader
from gunicorn.http.errors import LimitRequestHeaders
from gunicorn.http.unreader import SocketUnreader
from gunicorn.http.wsgi import Response

from iot_api.http.client_certificate import ClientCertificate
from iot_api.http.request import Proven
from iot_api.http.security_headers import REPLACEABLE, security_lines
from iot_api.limits.memory_budget import BODY_FACTOR, EXEMPT_BYTES, MemoryBudget

from .closing import Closable
from .phase import ClientGoneError, Phase
from .slow_send import PAUSE, SEND_BYTES_PER_SECOND, send_rest

MAX_HEAD_BYTES = 32 * 1024
"""Maximum size of a head, and of the trailers of a chunked body. gunicorn 27 would accept 800 KiB,
and its parser copies or searches all received bytes for each byte that arrives. Heads and trailers
are not charged to the memory budget."""
_TURN_SECONDS = 0.01
"""Longest time for which one connection is read before other greenlets run."""
_SMALL_PART_BYTES = 4096
"""A part of a body that is shorter than this is joined with the next part. Otherwise a body that
arrives two bytes at a time would take 60 times its size in memory, while only twice its size is
charged to the memory budget."""


@dataclass(slots=True, eq=False)
class Connection(Closable):
    """The state of a connection. The greenlet that serves it keeps `phase` up to date."""

    accepted: float = field(default_factory=time.monotonic)
    certificate: ClientCertificate | None = None
    is_stream: bool = False
    """Whether the answer is a live stream, which may take hours."""
    proven: Proven = field(default_factory=set)
    """Passwords that the client has proven to know, as cache keys."""
    reserved: bool = False
    """Whether the connection is in the reserve of `ConnectionTable`: health checks are answered,
    all other requests are refused."""
    head_bytes: int = 0
    """Received bytes of the head, or of several heads that arrived together."""
    body_began: float = 0.0
    """When the application began to wait for the body; 0.0 before."""
    body_bytes: int = 0
    discards_body: bool = False
    """Whether the rest of the body is read only to be discarded."""
    behind: float = 0.0
    """Seconds for which sends had to wait for the client, less the seconds that the bytes sent
    since then take at `SEND_BYTES_PER_SECOND`. Never negative: a client that has read
    fast gets no extra time. In SENDING, the wait since `since` is not counted yet."""

    def start_request(self, request: Any) -> None:
        """Record that the request line and all headers of a request have arrived."""
        self.request = request
        self.is_stream = False
        self.phase = Phase.ANSWERING
        self.body_began = 0.0
        self.body_bytes = self.head_bytes = 0
        self.discards_body = False

    def start_receive(self) -> None:
        """Record that the application waits for more of the body."""
        self.phase = Phase.BODY
        self.since = time.monotonic()
        if not self.body_began:
            self.body_began = self.since

    def count_wait(self, now: float) -> None:
        """Record that a send has waited for the client since `since`."""
        self.behind += now - self.since
        self.since = now

    def count_sent(self, count: int) -> None:
        """Record that the kernel took `count` bytes of an answer, after a wait or without one."""
        self.behind = max(0.0, self.behind - count / SEND_BYTES_PER_SECOND)

    def await_request(self, *, head_began: bool) -> None:
        """Begin to wait for the next request. `head_began`: its first bytes have arrived."""
        self.request = None
        self.phase = Phase.HEAD if head_began else Phase.IDLE
        self.since = time.monotonic()

    def delay(self, seconds: float) -> None:
        """Delay an error answer. If the connection is closed meanwhile, the answer is the last."""
        self.delay_ends = Event()
        self.phase = Phase.DELAYED
        self.since = time.monotonic()
        self.delay_ends.wait(seconds)
        self.phase = Phase.ANSWERING
        if self.closing:
            self.request.force_close()


class ConnectionReader(SocketUnreader):  # type: ignore[misc] # gunicorn has no types
    """Receives requests for the parser. Charges large bodies to the memory budget `memory`."""

    # gunicorn 27 drops an unread body in pieces of 1 KiB, and copies all bytes received ahead for
    # each piece. With its own value, 1 MiB, that takes half a second.
    max_body_chunk = 2**17

    def __init__(self, connection: Connection, memory: MemoryBudget) -> None:
        super().__init__(connection.client)
        self._connection = connection
        self._memory = memory
        # With TLS, received bytes may wait in OpenSSL while the socket does not become readable.
        self._waits_first = type(connection.client) is gevent.socket.socket
        self._turn_began = 0.0
        self._parts: list[bytes] = []
        self.ahead = b""
        """Received bytes that no request has read yet."""
        self.send_continue: Callable[[], object] | None = None
        """Sends `100 Continue`, before the body is read for the first time. None if the client does
        not wait for it."""

    def read(self, size: int | None = None, read_ahead: int | None = None) -> bytes:
        """Return `size` bytes, or fewer at the end of the stream.

        Without `size`, return the bytes that were received ahead, or receive some if there are
        none. If `read_ahead` is larger than `size`, up to `read_ahead` bytes are received. Bytes
        beyond `size` are kept for later reads.
        """
        if self.send_continue is not None:
            send, self.send_continue = self.send_continue, None
            send()
        ahead = self.ahead
        if size is None or size < 0:
            self.ahead = b""
            return ahead or self.chunk(read_ahead)
        if len(ahead) < size:
            ahead = self._receive(size, max(size, read_ahead or 0))
        self.ahead = ahead[size:]
        return ahead[:size]

    def _receive(self, size: int, most: int) -> bytes:
        """Return at least `size` and at most `most` bytes, or fewer at the end of the stream."""
        parts, count, self.ahead = [self.ahead], len(self.ahead), b""
        self._parts = parts  # for `_drop_body`: an exception keeps local variables alive
        while count < size:
            data = self.chunk(most - count)
            if not data:
                break
            if len(parts[-1]) < _SMALL_PART_BYTES:
                parts[-1] += data
            else:
                parts.append(data)
            count += len(data)
        received = b"".join(parts)
        parts.clear()
        return received

    def unread(self, data: bytes) -> None:
        """Give bytes back: the next `read` returns them first."""
        self.ahead = bytes(data) + self.ahead

    def take_turns(self, now: float) -> None:
        """Let other greenlets run if this one has run for `_TURN_SECONDS`.

        gevent switches greenlets only when a receive has to wait. If a client sends fast enough, no
        receive waits, and each may bring 200 requests. Without this method, such a client would
        delay all others, and even timeouts. `now` is the time of the monotonic clock.
        """
        if now - self._turn_began >= _TURN_SECONDS:
            gevent.sleep(0)
            self._turn_began = time.monotonic()

    def chunk(self, size_hint: int | None = None) -> Any:
        """Return the next bytes of a head or a body; b"" at the end of the stream.

        Raises:
            LimitRequestHeaders: the head has more than `MAX_HEAD_BYTES`.
            UnavailableError: the memory budget is used up.
            Exception: `failure` or `missing_body` of the connection. The server ended the
                receiving side before the whole body arrived.
        """
        connection = self._connection
        if connection.request is not None:
            self.take_turns(time.monotonic())
            return self._body_chunk(size_hint)
        if self._waits_first:
            # Wait first: clients seldom send a request before they get the last answer, so a
            # receive would mostly fail, and double the time.
            self.sock._wait(self.sock._read_event)  # noqa: SLF001
            self._turn_began = time.monotonic()
        else:
            self.take_turns(time.monotonic())
        data = super().chunk(size_hint)
        connection.head_bytes += len(data)
        if connection.head_bytes > MAX_HEAD_BYTES:
            raise LimitRequestHeaders("")
        if connection.phase is not Phase.HEAD:
            connection.phase = Phase.HEAD
            connection.since = time.monotonic()
        return data

    def _body_chunk(self, size_hint: int | None) -> Any:
        connection = self._connection
        connection.start_receive()
        try:
            data = b"" if connection.failure else super().chunk(size_hint)
        finally:
            connection.phase = Phase.ANSWERING
        if not data and connection.failure is None:
            connection.failure = connection.missing_body
        if connection.failure is not None:
            self._drop_body()
            raise connection.failure
        connection.body_bytes += len(data)
        if connection.body_bytes > EXEMPT_BYTES and not connection.discards_body:
            self._charge(len(data) * BODY_FACTOR)
        return data

    def _charge(self, count: int) -> None:
        try:
            self._memory.charge(self._connection, count)
        except Exception:
            self._drop_body()
            raise

    def _drop_body(self) -> None:
        """Free the received part of a body, and end the connection after the answer."""
        request = self._connection.request
        request.force_close()
        self.ahead = b""
        self._parts.clear()
        if isinstance(request.body, Body):
            request.body.buf = request.body.reader.buf = io.BytesIO()


class SizedBody:
    """The body of a PUT with a Content-Length."""

    __slots__ = ("_reader", "failed", "left")

    def __init__(self, reader: ConnectionReader, length: int) -> None:
        self._reader = reader
        self.left = length
        self.failed = False
        """Whether receiving has failed, so that the start of the next request is unknown."""

    def read(self, size: int) -> bytes:
        """Return the next `size` bytes of the body, fewer at its end."""
        size = min(size, self.left)
        if not size:
            return b""
        try:
            data: bytes = self._reader.read(size, self.left)
        except Exception:
            self.failed = True
            raise
        self.left -= size
        return data


class PutHead(NamedTuple):
    """The parsed head of a PUT of readings with a Content-Length."""

    version: tuple[int, int]
    headers: list[tuple[str, str]]
    route: str
    variables: dict[str, Any]
    """The variables of a WSGI environ that come from the head."""
    length: int
    expects_continue: bool
    closes: bool


class PutRequest:
    """A PUT of readings with a Content-Length."""

    __slots__ = ("body", "expects_continue", "head", "must_close")

    def __init__(self, head: PutHead, reader: ConnectionReader) -> None:
        self.head = head
        self.expects_continue = head.expects_continue
        self.body = SizedBody(reader, head.length)
        self.must_close = head.closes

    @property
    def headers(self) -> list[tuple[str, str]]:
        """The headers as pairs: the name in capitals, and the value."""
        return self.head.headers

    def force_close(self) -> None:
        """End the connection after the answer."""
        self.must_close = True


class ConnectionWriter:
    """A writer of answers, which gunicorn uses like a socket."""

    def __init__(self, connection: Connection, memory: MemoryBudget) -> None:
        self._connection = connection
        self._client: Any = connection.client
        self._send_now: Callable[[bytes | memoryview], int] = self._send_tls
        if type(self._client) is gevent.socket.socket:
            self._send_now = self._client._sock.send  # type: ignore[attr-defined] # noqa: SLF001
        self._memory = memory
        self.environ: dict[str, Any] = {}
        """WSGI environ of the request that is answered."""

    def sendall(self, data: bytes) -> None:
        """Send everything. Raises `ClientGoneError`."""
        sent = self.send_at_once(data)
        if sent < len(data):
            self._send_rest(memoryview(data)[sent:])

    def send_parts(self, *parts: bytes) -> None:
        """Send all parts. Copy them only if the kernel does not take all of them in one call."""
        sent = 0
        if self._send_now != self._send_tls:
            try:
                sent = self._client._sock.sendmsg(parts)  # noqa: SLF001
            except BlockingIOError:
                sent = 0
            except OSError as error:
                raise ClientGoneError from error
            if self._connection.behind:
                self._connection.count_sent(sent)
        if sent < sum(map(len, parts)):
            self._send_rest(memoryview(b"".join(parts))[sent:])

    def send_at_once(self, data: "bytes | memoryview") -> int:
        """Send what the kernel takes without waiting; return the number of bytes, maybe 0."""
        try:
            sent = self._send_now(data)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise ClientGoneError from error
        if self._connection.behind:  # save the call for all other clients
            self._connection.count_sent(sent)
        return sent

    def _send_tls(self, data: "bytes | memoryview") -> int:
        # gevent's sockets never block in the kernel: only the timeout of the object changes.
        self._client.settimeout(0.0)
        try:
            sent: int = self._client.send(data)
        finally:
            self._client.settimeout(None)
        return sent

    def _send_rest(self, data: memoryview) -> None:
        pause = self.environ.get(PAUSE)
        send_rest(self._connection, self.send_at_once, data, memory=self._memory, pause=pause)


class WsgiResponse(Response):  # type: ignore[misc] # gunicorn has no types
    """gunicorn's response, but the headers and the first piece of the body go into one packet.

    gunicorn 27 sends them in two packets, with two system calls, and each packet wakes the client
    up.
    """

    def send_headers(self) -> None:
        """Send the status line and the headers, unless they are sent already."""
        if not self.headers_sent:
            self._send(b"")

    def write(self, data: Any) -> None:
        """Send a piece of the body; with the first piece, send the status line and the headers."""
        if self.chunked and self.headers_sent and data and isinstance(data, bytes):
            # gunicorn 27 would copy each piece of a long answer.
            self.sent += len(data)
            self.sock.send_parts(b"%X\r\n" % len(data), data, b"\r\n")
            return
        whole = self.response_length is not None and len(data) <= self.response_length
        if self.headers_sent or not whole or self._omits_body or not isinstance(data, bytes):
            super().write(data)
            return
        self.sent += len(data)
        self._send(data)

    def default_headers(self) -> list[str]:
        """Return the status line, and the headers before the application's headers."""
        head = [first_lines(self.req.version, self.status, closes=self.should_close())]
        if self.status_code != 201:  # `security_headers` says why
            replaced = REPLACEABLE.intersection(name for name, _ in self.headers)
            head.append(security_lines(tls=bool(self.cfg.is_ssl), replaced=replaced))
        if self.chunked:
            head.append("Transfer-Encoding: chunked\r\n")
        return head

    def _send(self, body: bytes) -> None:
        lines = self.default_headers()
        lines += [f"{name}: {value}\r\n" for name, value in self.headers]
        lines.append("\r\n")
        util.write(self.sock, "".join(lines).encode("latin-1") + body)
        self.headers_sent = True


def first_lines(version: tuple[int, int], status: str, *, closes: bool) -> str:
    """Return the status line and the headers `Server`, `Date` and `Connection`."""
    return _first_lines(version, status, closes, int(time.time()))


@lru_cache(maxsize=16)
def _first_lines(version: tuple[int, int], status: str, closes: bool, second: int) -> str:
    connection = "close" if closes else "keep-alive"
    minor = min(version[1], 1)  # a version that the server implements (RFC 9110, 2.5)
    return (
        f"HTTP/1.{minor} {status}\r\nServer: {SERVER}\r\n"
        f"Date: {util.http_date(second)}\r\nConnection: {connection}\r\n"
    )


def client_closes(version: tuple[int, int], headers: list[tuple[str, str]]) -> bool:
    """Return whether a request asks to close the connection after the answer (RFC 9112, 9.3).

    The value of the header `Connection` is a list, such as `TE, close`, and the header may be
    repeated. gunicorn 27 compares only the whole value of the first such header.
    """
    values = [value for name, value in headers if name == "CONNECTION"]
    options = [option.strip(" \t").lower() for option in ",".join(values).split(",")]
    return "close" in options or (version <= (1, 0) and "keep-alive" not in options)


def is_unread(body: Any) -> bool:
    """Return whether the body of a request is not read to its end."""
    if body.failed:
        return True
    if type(body) is SizedBody:
        return body.left > 0
    reader = body.reader
    return reader.parser is not None if isinstance(reader, ChunkedReader) else reader.length > 0
