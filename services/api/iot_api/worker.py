"""The gunicorn worker of the API: gunicorn's gevent worker, but for its end.

That one closes its listener at once and then waits out `graceful_timeout` for clients that are
connected and ask nothing. This one ends within about a second, and no request fails by it.
"""

import os
import socket
import ssl
import time
import uuid
from contextlib import nullcontext, suppress
from functools import partial
from types import FrameType
from typing import Any

import gevent
import msgspec
from gevent.pool import Pool
from gevent.server import StreamServer
from gunicorn import util
from gunicorn.http.unreader import SocketUnreader
from gunicorn.http.wsgi import create
from gunicorn.sock import ssl_context
from gunicorn.workers.ggevent import GeventWorker

from iot_models.errors import ErrorCode

from . import stopping
from .wsgi_response import PAUSE, WsgiResponse

GRACE_SECONDS = 1.0
"""Asked to end, accept for so long; then close the connections that asked nothing meanwhile."""
BODY_SECONDS = 5.0
"""Asked to end, wait so long for bodies that are still on their way."""
_BEAT_SECONDS = 0.1
_UNREAD_SECONDS = 2.0
_RECEIVED_BYTES = 2**17
"""The most that is received at once of a body. One that nobody reads, gunicorn drops 1 KiB at a
time, and copies each time what it received: with its own 1 MiB that takes half a second.
"""
_NO_CONTEXT = nullcontext()
_TURN_SECONDS = 0.01
"""For so long one connection may keep all others waiting with bytes that are there at once."""


class _Open:
    """A connection: the request that is answered; if none, since when one is awaited."""

    def __init__(self, client: socket.socket) -> None:
        self.client = client
        self.request: Any = None
        self.waiting_since = time.monotonic()


class _PausingSocket:
    """Calls a function when a send blocks for a while."""

    def __init__(self, client: Any, pause: Any) -> None:
        self._client = client
        self._pause = pause

    def sendall(self, data: Any) -> None:
        """Send all data."""
        left = memoryview(data)
        self._client.settimeout(0.25)
        while left:
            try:
                left = left[self._client.send(left) :]
            except TimeoutError:
                self._pause()
                self._client.settimeout(None)
        self._client.settimeout(None)


class _Listener:
    """What is asked of a listener as a connection is served; by then the real one may be closed."""

    def __init__(self, listener: socket.socket) -> None:
        self._name = listener.getsockname()

    def getsockname(self) -> Any:
        return self._name


class ApiWorker(GeventWorker):  # type: ignore[misc] # gunicorn has no types
    """On SIGTERM: every answer says `Connection: close`, and ends its connection. After
    `GRACE_SECONDS` the listener is closed, and the connections on which nothing was asked for
    that long. A request that has arrived by then is answered. Bodies get `BODY_SECONDS` to
    arrive, else 503; answers get `graceful_timeout`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        util.write_error = _write_error  # what isn't HTTP never reaches the app
        SocketUnreader.chunk = _received_in_turns
        SocketUnreader.max_body_chunk = _RECEIVED_BYTES
        # A setting is looked up and unpacked each time it is asked for, many times a request.
        self.cfg.__dict__.update({name: each.get() for name, each in self.cfg.settings.items()})
        self._connections: dict[Any, _Open] = {}
        self._close_idle_at = 0.0

    def run(self) -> None:
        """Serve until asked to end."""
        servers = [self._serve(listener) for listener in self.sockets]
        while self.alive:
            self.notify()
            self._close_idle()
            gevent.sleep(_BEAT_SECONDS)
        self._end(servers)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """SIGTERM."""
        stopping.asked.set()
        super().handle_exit(sig, frame)

    def handle(self, listener: Any, client: Any, addr: Any) -> None:
        """Serve one connection, from a greenlet of its own."""
        self._connections[gevent.getcurrent()] = _Open(client)
        try:
            super().handle(listener, client, addr)
        finally:
            del self._connections[gevent.getcurrent()]

    def timeout_ctx(self) -> Any:
        """Called as a connection's next request is awaited; `_close_idle` ends that, if need be."""
        connection = self._connections[gevent.getcurrent()]
        connection.request, connection.waiting_since = None, time.monotonic()
        return _NO_CONTEXT

    def handle_request(self, listener_name: Any, req: Any, sock: Any, addr: Any) -> None:
        """Answer one request. Raises `StopIteration` when its connection is to be closed."""
        self._connections[gevent.getcurrent()].request = req
        answer, environ = create(req, sock, addr, listener_name, self.cfg, WsgiResponse)
        environ["wsgi.multithread"] = True
        if not self.alive:
            answer.force_close()
        try:
            self._answer(answer, environ)
        except OSError:
            raise
        except Exception:
            if not answer.headers_sent:
                raise
            self.log.exception("an answer is broken off")
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            raise StopIteration from None
        if answer.should_close():
            _read_out(req)
            raise StopIteration

    def _answer(self, answer: WsgiResponse, environ: dict[str, Any]) -> None:
        body = self.wsgi(environ, answer.start_response)
        if PAUSE in environ:
            answer.sock = _PausingSocket(answer.sock, environ[PAUSE])
        try:
            for piece in body:
                answer.write(piece)
            answer.close()
        finally:
            if hasattr(body, "close"):
                body.close()

    def _close_idle(self) -> None:
        """Close the connections on which no whole head of a request came for too long."""
        now = time.monotonic()
        if now < self._close_idle_at:
            return
        self._close_idle_at = now + 1
        for each in self._connections.values():
            if each.request is None and now - each.waiting_since >= self.cfg.keepalive:
                _receive_no_more(each.client)

    def _serve(self, listener: Any) -> Any:
        listener.setblocking(True)
        tls: dict[str, Any] = {}
        if self.cfg.is_ssl:
            # Shaken hands with in `handle`: there it is known how long that takes.
            tls = {"ssl_context": _tls(self.cfg), "do_handshake_on_connect": False}
        handle = partial(self.handle, _Listener(listener))
        pool = Pool(self.worker_connections)
        server = StreamServer(listener, handle=handle, spawn=pool, **tls)
        server.max_accept = 1  # the next connection may be another worker's
        server.start()
        return server

    def _end(self, servers: list[Any]) -> None:
        begin = time.monotonic()
        listening = True
        while (age := time.monotonic() - begin) < self.cfg.graceful_timeout:
            if listening and age >= GRACE_SECONDS:
                for server in servers:
                    _close_listener(server)
                listening = False
            if not listening and not self._connections:
                break
            self._end_connections(begin, bodies=age >= BODY_SECONDS)
            self.notify()
            gevent.sleep(_BEAT_SECONDS)
        for server in servers:
            server.stop(timeout=1)

    def _end_connections(self, begin: float, *, bodies: bool) -> None:
        for each in self._connections.values():
            if each.request is None:
                over = time.monotonic() - max(each.waiting_since, begin) >= GRACE_SECONDS
            else:
                each.request.force_close()  # says so in its answer, unless that is on its way
                over = bodies
            if over:
                _receive_no_more(each.client)


def _tls(config: Any) -> ssl.SSLContext:
    """gunicorn's. To OpenSSL 3 `_receive_no_more` would be a fault, which it tells the client."""
    context: ssl.SSLContext = ssl_context(config)
    context.options |= getattr(ssl, "OP_IGNORE_UNEXPECTED_EOF", 0)
    return context


def _close_listener(server: Any) -> None:
    """Take the connections that wait at the listener: closing it would reset them."""
    server.stop_accepting()
    while not server.full() and (accepted := server.do_read()):
        server.do_handle(*accepted)
    server.close()


def _receive_no_more(client: socket.socket) -> None:
    """Whoever reads gets what has arrived, and then the end, in one step of the kernel: a request
    either came before it and is answered, or finds the connection closed.
    """
    # A twin: gevent would throw at whoever waits for `client`, and TLS forget its keys.
    with suppress(OSError), socket.socket(fileno=os.dup(client.fileno())) as twin:
        twin.shutdown(socket.SHUT_RD)


def _read_out(req: Any) -> None:
    """Read what is left of a body before the connection is closed: to close it on bytes that
    wait resets it, and the client may lose the answer.
    """
    with gevent.Timeout(_UNREAD_SECONDS, False), suppress(Exception):  # whatever ails the body
        while req.body.read(2**16):
            pass


_received = SocketUnreader.chunk


def _received_in_turns(unreader: Any, *hints: Any) -> Any:
    """gunicorn's way to receive. gevent hands over what has arrived without a look at others, and
    not even a timeout gets through to whoever reads on from a client that sends fast enough.
    """
    if time.monotonic() - getattr(unreader, "turn_began", 0.0) >= _TURN_SECONDS:
        gevent.sleep(0)
        unreader.turn_began = time.monotonic()
    return _received(unreader, *hints)


def _write_error(client: socket.socket, status: int, reason: str, message: str) -> None:
    """Answer what gunicorn itself refuses as the app answers errors."""
    content = {"error": message or reason, "code": ErrorCode.INVALID_REQUEST}
    body = msgspec.json.encode(content) + b"\n"
    head = (
        f"HTTP/1.1 {status} {reason}\r\nConnection: close\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nX-Request-Id: {uuid.uuid4().hex}\r\n\r\n"
    )
    util.write_nonblock(client, head.encode("latin1") + body)
