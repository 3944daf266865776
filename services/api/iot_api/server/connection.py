"""One client connection: its state, and how heads, bodies and answers pass over it."""

import io
import os
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import gevent
import gevent.socket
from gevent.event import Event
from gevent.socket import wait_write
from gunicorn.http.body import Body
from gunicorn.http.errors import LimitRequestHeaders
from gunicorn.http.unreader import SocketUnreader

from iot_api.http.client_certificate import ClientCertificate
from iot_api.http.request import Proven
from iot_api.limits.memory_budget import BODY_FACTOR, EXEMPT_BYTES, MemoryBudget
from iot_models import metrics
from iot_models.errors import UnavailableError

from .phase import Phase

MAX_HEAD_BYTES = 32 * 1024
"""Limit of a head, and of the trailers of a chunked body. gunicorn 27 would take 800 KiB of each.
Those are not charged, and its parser copies or searches all of them for every byte that arrives.
"""
STALLED_SECONDS = 1.0
"""A body or an answer without progress for this long may be closed to make room."""
PAUSE_SECONDS = 0.25
"""A send that is blocked for this long pauses the application's work on the answer."""
PAUSE = "iot_api.pause"
"""Key in the WSGI environ: a function of a view that the writer calls, at most once for each piece
of the answer, when the client has not taken the piece for `PAUSE_SECONDS`. A long read then frees
its transaction and memory."""
_TURN_SECONDS = 0.01
"""Longest time for which one connection is read before other greenlets run."""
_SPIN_SECONDS = 0.01
_SMALL_PART_BYTES = 4096
"""A shorter part of a body is joined with the next one. Otherwise a body that arrives two bytes at
a time would take 60 times its size. The memory budget charges twice the size."""


@dataclass(slots=True, eq=False)
class Connection:
    """The state of a connection. The greenlet that serves it keeps `phase` up to date."""

    client: socket.socket
    network: str
    phase: Phase = Phase.NEW
    since: float = field(default_factory=time.monotonic)
    """When the phase began. In BODY and SENDING: when the last byte was received or sent."""
    accepted: float = field(default_factory=time.monotonic)
    certificate: ClientCertificate | None = None
    request: Any = None
    is_stream: bool = False
    """Whether the answer is a live stream, which may take hours."""
    proven: Proven = field(default_factory=set)
    """Passwords that the client has proven to know, as cache keys."""
    reserved: bool = False
    """Whether it is served from the reserve: only health checks are answered."""
    closing: bool = False
    failure: Exception | None = None
    """Raised by the next receive of the body."""
    missing_body: Exception | None = None
    """Raised if a body does not arrive, because the connection was closed before its head was read.
    Without it, the client would be told that its body is cut off (400), and might drop readings."""
    head_bytes: int = 0
    """Received bytes of the head, or of several heads whose requests arrived together."""
    body_began: float = 0.0
    """0.0 until the application waits for the body."""
    body_bytes: int = 0
    discards_body: bool = False
    """Whether the rest of the body is read only to be discarded."""
    send_began: float = 0.0
    piece_bytes: int = 0
    """Sent bytes of the piece that is blocked."""
    blocked_before: float = 0.0
    """Seconds for which earlier pieces of the answer were blocked."""
    blocked_bytes: int = 0
    """Bytes sent while the answer was blocked."""
    delay_ends: Event | None = None
    """Set when a delayed answer must not wait any longer."""

    def start_request(self, request: Any) -> None:
        """Record that a whole head has arrived."""
        self.request = request
        self.is_stream = False
        self.phase = Phase.ANSWERING
        self.body_began = self.blocked_before = 0.0
        self.body_bytes = self.blocked_bytes = 0
        self.head_bytes = 0
        self.discards_body = False

    def start_receive(self) -> None:
        """Record that the application waits for more of the body."""
        self.phase = Phase.BODY
        self.since = time.monotonic()
        if not self.body_began:
            self.body_began = self.since

    def await_request(self, *, head_began: bool) -> None:
        """Record that a request is answered. `head_began`: a part of the next head has arrived."""
        self.request = None
        self.phase = Phase.HEAD if head_began else Phase.IDLE
        self.since = time.monotonic()

    def delay(self, seconds: float) -> None:
        """Wait before an error is answered. Raises `ClientGoneError` if the connection was closed
        meanwhile, to make room.
        """
        self.delay_ends = Event()
        self.phase = Phase.DELAYED
        self.since = time.monotonic()
        self.delay_ends.wait(seconds)
        self.phase = Phase.ANSWERING
        if self.closing:
            raise ClientGoneError

    def end_delay(self) -> None:
        """Send a delayed answer now."""
        if self.delay_ends is not None:
            self.delay_ends.set()

    def start_send(self) -> None:
        """Record that the client does not take the next piece of the answer at once."""
        self.phase = Phase.SENDING
        self.since = self.send_began = time.monotonic()
        self.piece_bytes = 0

    def note_sent(self, count: int) -> None:
        """Record that the client took some bytes of a blocked piece."""
        self.since = time.monotonic()
        self.piece_bytes += count
        self.blocked_bytes += count

    def end_send(self) -> None:
        """Record that the blocked piece is sent, or that the client is gone."""
        self.phase = Phase.ANSWERING
        self.blocked_before += time.monotonic() - self.send_began

    def is_silent(self, now: float) -> bool:
        """Return whether the connection may be closed to make room for another."""
        if self.closing or self.phase is Phase.ANSWERING:
            return False
        return self.phase < Phase.BODY or now - self.since >= STALLED_SECONDS

    @property
    def droppable(self) -> bool:
        """Whether closing the connection frees the memory that it is charged for."""
        return self.phase in (Phase.BODY, Phase.SENDING) and not self.closing

    def drop(self) -> None:
        """Close a connection whose body or answer holds memory that others need."""
        count_closed("memory")
        self.end(UnavailableError("this server is short of memory; send the request again"))

    def end(self, failure: Exception) -> None:
        """Close the connection from another greenlet. `failure` answers a body that is cut off."""
        self.closing = True
        self.end_delay()
        if self.phase is Phase.SENDING:
            self.abort()
        elif self.request is not None:
            self.cut_body(failure)
        else:
            self.end_idle(failure)

    def end_idle(self, failure: Exception) -> None:
        """Close a connection that waits for a request. `failure` answers a request whose head has
        arrived by now, and whose body has not.
        """
        self.missing_body = failure
        self.receive_no_more()

    def cut_body(self, failure: Exception) -> None:
        """Make the application's reading of the body fail."""
        self.failure = failure
        self.receive_no_more()

    def receive_no_more(self) -> None:
        """End the receiving side. A request that has arrived by then is still answered.

        After SHUT_RD, Linux delivers what has arrived and then the end of the stream, in one step:
        a request is either answered, or its client finds the connection closed.
        """
        self._shut_down(socket.SHUT_RD)

    def send_no_more(self) -> None:
        """End the sending side: the client receives the end of the stream."""
        self._shut_down(socket.SHUT_WR)

    def abort(self) -> None:
        """Abort an answer."""
        self._shut_down(socket.SHUT_RDWR)

    def _shut_down(self, how: int) -> None:
        # On a duplicate of the descriptor: gevent (26.9) would raise in the greenlet that waits
        # for `client`, and ssl's `shutdown` would drop the keys of TLS.
        with suppress(OSError), socket.socket(fileno=os.dup(self.client.fileno())) as duplicate:
            duplicate.shutdown(how)


class ConnectionReader(SocketUnreader):  # type: ignore[misc] # gunicorn has no types
    """The source of gunicorn's parser: receives in turns, and within the memory budget."""

    # gunicorn 27 drops an unread body 1 KiB at a time, and each time copies what it has received.
    # With its own value, 1 MiB, that takes half a second.
    max_body_chunk = 2**17

    def __init__(self, connection: Connection, memory: MemoryBudget) -> None:
        super().__init__(connection.client)
        self._connection = connection
        self._memory = memory
        # TLS may hold received bytes, and then the socket does not become readable.
        self._waits_first = type(connection.client) is gevent.socket.socket
        self._turn_began = 0.0
        self._parts: list[bytes] = []
        self.ahead = b""
        """Received bytes that no request has taken."""

    def read(self, size: int | None = None, read_ahead: int | None = None) -> bytes:
        """Return `size` bytes, fewer at the end of the stream; without `size`, what has arrived, or
        the next received bytes. `read_ahead`: so many bytes may be received at once.
        """
        ahead = self.ahead
        if size is None or size < 0:
            self.ahead = b""
            return ahead or self.chunk(read_ahead)
        if len(ahead) < size:
            ahead = self._receive(size, max(size, read_ahead or 0))
        self.ahead = ahead[size:]
        return ahead[:size]

    def _receive(self, size: int, most: int) -> bytes:
        """Return at least `size` bytes, fewer at the end of the stream."""
        parts, count, self.ahead = [self.ahead], len(self.ahead), b""
        self._parts = parts  # where `drop` finds them: an exception keeps the variables alive
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

    def take_buffered(self) -> bytes:
        """Return all bytes that have arrived."""
        data, self.ahead = self.ahead, b""
        return data

    def take_turns(self, now: float) -> None:
        """Let other greenlets run if this connection was read for long.

        gevent switches greenlets only when a receive has to wait. A client that sends fast enough
        would otherwise keep all others waiting, and even timeouts: 8 KiB hold 200 small requests.
        """
        if now - self._turn_began >= _TURN_SECONDS:
            gevent.sleep(0)
            self._turn_began = time.monotonic()

    def chunk(self, size_hint: int | None = None) -> Any:
        """Receive bytes of a head or a body; none at the end of the stream.

        Raises:
            LimitRequestHeaders: the head is too long.
            Exception: the connection's `failure`, when it was closed while a body arrived.
        """
        connection = self._connection
        if connection.request is not None:
            self.take_turns(time.monotonic())
            return self._body_chunk(size_hint)
        if self._waits_first:
            # Clients seldom send a request before they get the last answer. A receive that fails,
            # and then waits, takes twice the time.
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
        """Free the received part of a failed body. To answer and discard the rest takes seconds."""
        request = self._connection.request
        request.force_close()
        self.ahead = b""
        self._parts.clear()
        if isinstance(request.body, Body):
            request.body.buf = request.body.reader.buf = io.BytesIO()


class ClientGoneError(OSError):
    """The client is gone, or was closed because it read too slowly."""


class ConnectionWriter:
    """gunicorn's socket: sends answers, and aborts answers to slow clients at their deadlines."""

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
        """Send everything. Raises `ClientGoneError` when that fails."""
        sent = self.send_at_once(data)
        if sent < len(data):
            self._send_rest(memoryview(data)[sent:])

    def send_parts(self, *parts: bytes) -> None:
        """Send all parts. They are copied only if the kernel does not take all of them at once."""
        sent = 0
        if self._send_now != self._send_tls:
            try:
                sent = self._client._sock.sendmsg(parts)  # noqa: SLF001
            except BlockingIOError:
                sent = 0
            except OSError as error:
                raise ClientGoneError from error
        if sent < sum(map(len, parts)):
            self._send_rest(memoryview(b"".join(parts))[sent:])

    def send(self, data: bytes) -> int:
        """Send everything, as gunicorn expects for its `100 Continue`."""
        self.sendall(data)
        return len(data)

    def send_at_once(self, data: "bytes | memoryview") -> int:
        """Send what the kernel takes without waiting; return the number of bytes, maybe 0."""
        try:
            return self._send_now(data)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise ClientGoneError from error

    def _send_tls(self, data: "bytes | memoryview") -> int:
        # gevent's sockets never block in the kernel: only the timeout of the object changes.
        self._client.settimeout(0.0)
        try:
            sent: int = self._client.send(data)
        finally:
            self._client.settimeout(None)
        return sent

    def _send_rest(self, data: memoryview) -> None:
        # TLS takes one record of 16 KiB at a time.
        while data and (sent := self.send_at_once(data)):
            data = data[sent:]
        if data:
            self._connection.start_send()
            try:
                self._send_slowly(data)
            finally:
                self._connection.end_send()

    def _send_slowly(self, data: memoryview) -> None:
        """Send to a client that makes us wait. The worker enforces the deadlines: it shuts the
        socket down, which ends the wait.
        """
        pause_at: float | None = self._connection.send_began + PAUSE_SECONDS
        charged = 0
        try:
            while data:
                if pause_at is not None and time.monotonic() >= pause_at:
                    charged, pause_at = len(data), None
                    self._pause(charged)
                if self._becomes_writable(pause_at):
                    sent = self.send_at_once(data)
                    self._connection.note_sent(sent)
                    data = data[sent:]
                    if not sent:
                        # TLS can wait to receive (a key update) while the socket is writable.
                        gevent.sleep(_SPIN_SECONDS)
        finally:
            self._memory.refund(self._connection, charged)

    def _pause(self, waiting: int) -> None:
        """Charge the bytes that wait to be sent, and let the application free what it can."""
        try:
            self._memory.charge(self._connection, waiting)
        except UnavailableError:
            count_closed("memory")
            raise ClientGoneError from None
        pause: Callable[[], object] | None = self.environ.get(PAUSE)
        if pause is not None:
            pause()

    def _becomes_writable(self, until: float | None) -> bool:
        seconds = None if until is None else max(0.001, until - time.monotonic())
        try:
            wait_write(self._client.fileno(), seconds)
        except TimeoutError:
            return False
        return True


def count_closed(reason: str) -> None:
    """Count a connection that the server closes on its client."""
    metrics.counter("iot_connections_closed_total").labels(reason).inc()
