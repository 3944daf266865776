"""Connections to the service that are kept open between requests."""

import http.client
import os
import re
import socket
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http import HTTPStatus
from selectors import EVENT_READ, DefaultSelector
from urllib.parse import SplitResult, urlsplit

from .arguments import checked_text, checked_timeout
from .errors import NoResponseError, TrustError
from .response import Response

_DISCONNECTED = (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError)
_CERTIFICATE_ALERT = re.compile("ALERT_(.*CERTIFICATE|UNKNOWN_CA|ACCESS_DENIED)")
"""TLS alerts by which a server refuses the certificate of a client, as OpenSSL names them."""
_WRONG_TIME = "renew the certificate, or correct the clock of this machine"
_UNKNOWN_ISSUER = "name the file of its certificate authority: ca_file, or --ca-file of iot-sensor"
_CORRECTIONS = {
    9: _WRONG_TIME,  # X509_V_ERR_CERT_NOT_YET_VALID
    10: _WRONG_TIME,  # X509_V_ERR_CERT_HAS_EXPIRED
    18: _UNKNOWN_ISSUER,  # X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT
    19: _UNKNOWN_ISSUER,  # X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN
    20: _UNKNOWN_ISSUER,  # X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY
    21: _UNKNOWN_ISSUER,  # X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE
}
"""What a user can do after a certificate was refused, by the error code of OpenSSL."""


class _FinalResponse(http.client.HTTPResponse):
    """A response after any number of 1xx heads. `http.client` skips only those with 100."""

    def begin(self) -> None:
        super().begin()
        while self.status < HTTPStatus.OK:
            self.headers = None  # type: ignore[assignment] # else `begin` does nothing
            super().begin()


@dataclass(frozen=True, slots=True)
class Request:
    """A request to send."""

    method: str
    path: str
    body: bytes | None
    headers: Mapping[str, str]


class Stream:
    """A response whose body is read while it arrives. It has a connection of its own."""

    def __init__(self, connection: http.client.HTTPConnection, timeout: float) -> None:
        """Receive the status and the headers, and the body if the status is not 200.

        `pieces` receives the body of a 200, which may never end. `timeout`: longest time without a
        byte of this body, in seconds.
        """
        self._connection = connection
        self._socket: socket.socket = connection.sock  # http.client may drop it with the head
        self._received = connection.getresponse()
        self._process = os.getpid()
        body = b"" if self._received.status == HTTPStatus.OK else self._received.read()
        self.response = Response(self._received.status, self._received.headers, body)
        self.set_timeout(timeout)

    def set_timeout(self, seconds: float) -> None:
        """Set how many seconds `pieces` waits for the next byte before it raises `OSError`."""
        with suppress(OSError):
            self._socket.settimeout(seconds)

    def pieces(self) -> Iterator[bytes]:
        """Yield the body as it arrives. Raises `OSError` or `HTTPException` if it is cut off.

        Raises `ConnectionError` in a forked child: the parent would miss the bytes that the child
        receives.
        """
        while os.getpid() == self._process:
            piece = self._received.read1()
            if not piece:
                return
            yield piece
        raise ConnectionError("the connection belongs to the parent of this process")

    def abort(self) -> None:
        """Shut down the connection, and end the wait of another thread in `pieces` immediately."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connection."""
        self._received.close()
        self._connection.close()


class ConnectionPool:
    """The idle connections to one server. Each request uses its own connection. Thread-safe.

    A forked child opens connections of its own.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout: float | None,
        connect_timeout: float | None,
        tls_context: ssl.SSLContext | None,
        keep_alive: bool,
    ) -> None:
        """Raises `ValueError` if the URL or a timeout is invalid, `TypeError` for a wrong type."""
        parts = _parse(url)
        self._tls = parts.scheme == "https"
        self._host = parts.hostname or ""
        default_port = http.client.HTTPS_PORT if self._tls else http.client.HTTP_PORT
        self._port = parts.port or default_port
        self._base_path = parts.path.rstrip("/")
        self._timeout = checked_timeout("timeout", timeout)
        self._connect_timeout = checked_timeout("connect_timeout", connect_timeout)
        self._tls_context = tls_context
        self._keep_alive = keep_alive
        # A list: append and pop are atomic, and the last used connection is least likely to have
        # reached the keep-alive timeout of the server.
        self._idle: list[tuple[int, http.client.HTTPConnection]] = []
        """Each connection with the id of the process that opened it. If two processes used a
        connection, each could receive responses to requests of the other.
        """

    @property
    def connected(self) -> bool:
        """Whether an idle connection is open that the server has not closed."""
        connection = self._take_idle()
        if connection is not None:
            self._idle.append((os.getpid(), connection))
        return connection is not None

    def send(self, request: Request, *, repeatable: bool) -> Response:
        """Send a request and return its response.

        A server may close a connection at the moment a request is sent on it. A `repeatable`
        request is then sent a second time, immediately and on a new connection.

        Raises:
            NoResponseError: no complete response arrived.
            ValueError: the path or a header is not valid in HTTP.
        """
        try:
            return self._exchange(self._take_idle() or self._connect(), request)
        except NoResponseError as error:
            disconnected = error.sent and isinstance(error.__cause__, _DISCONNECTED)
            if not (repeatable and disconnected):
                raise
        self.close()
        try:
            return self._exchange(self._connect(), request)
        except NoResponseError as error:
            error.sent = True  # the server may have processed the first request
            raise

    def open_stream(self, request: Request, timeout: float) -> Stream:
        """Send a request on a new connection, without retries. Return the response.

        Return a 200 when its headers have arrived, any other response when it is complete.

        Raises:
            NoResponseError: the connection failed before this method could return the response.
        """
        connection = self._connect()
        try:
            with self._requested(connection, request):
                return Stream(connection, timeout)
        except BaseException:
            connection.close()
            raise

    def close(self) -> None:
        """Close all idle connections. The next request opens a new one."""
        while True:
            try:
                self._idle.pop()[1].close()
            except IndexError:
                return

    def _exchange(self, connection: http.client.HTTPConnection, request: Request) -> Response:
        done = False
        process = os.getpid()
        try:
            with self._requested(connection, request):
                received = connection.getresponse()
                response = Response(received.status, received.headers, received.read())
            # http.client closes the connection if the response announces the close. The response
            # need not announce the close if the request did.
            keep = self._keep_alive and request.headers.get("Connection") != "close"
            done = keep and connection.sock is not None
            return response
        finally:
            if done:
                self._idle.append((process, connection))
            else:
                connection.close()

    @contextmanager
    def _requested(
        self, connection: http.client.HTTPConnection, request: Request
    ) -> Iterator[None]:
        """Send a request, then run the `with` block, which receives the response.

        Raises the errors of `send`. Any error in the block becomes a `NoResponseError`.
        """
        path = self._base_path + request.path
        try:
            # A server may refuse a large body, or the client's certificate, and close before it has
            # read all of the body. The response, or the TLS alert, can still be read; without
            # either, the block fails.
            with suppress(BrokenPipeError, ConnectionResetError, ssl.SSLEOFError):
                connection.request(request.method, path, request.body, dict(request.headers))
        except http.client.InvalidURL as error:
            raise ValueError(f"path {request.path!r}: {error}") from None
        except (OSError, http.client.HTTPException) as error:
            raise _no_response(error) from error
        try:
            yield
        # http.client also raises ValueError (a negative size of a chunk), OverflowError and
        # MemoryError (a huge Content-Length).
        except Exception as error:
            raise _no_response(error) from error

    def _connect(self) -> http.client.HTTPConnection:
        host, port, timeout = self._host, self._port, self._connect_timeout
        connection = (
            http.client.HTTPSConnection(host, port, timeout=timeout, context=self._tls_context)
            if self._tls
            else http.client.HTTPConnection(host, port, timeout=timeout)
        )
        connection.response_class = _FinalResponse
        try:
            connection.connect()
            opened: socket.socket = connection.sock
            opened.settimeout(self._timeout)
        except OSError as error:
            connection.close()
            raise _no_response(error, sent=False) from error
        except BaseException:
            connection.close()
            raise
        return connection

    def _take_idle(self) -> http.client.HTTPConnection | None:
        while True:
            try:
                process, connection = self._idle.pop()
            except IndexError:
                return None
            if process == os.getpid() and not _closed_by_server(connection):
                return connection
            connection.close()


def _parse(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        valid = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:  # raised by `port`, and by `urlsplit` for half an IPv6 address
        valid = False
    if not valid or set(parts.netloc) & set("@ \t") or parts.query or parts.fragment:
        raise ValueError("the URL must have the form http(s)://host[:port][/path]")
    return parts


def _closed_by_server(connection: http.client.HTTPConnection) -> bool:
    """Return whether the server closed an idle connection.

    A closed connection is readable: it has the end of the stream to read. An open idle connection
    has nothing to read.
    """
    with DefaultSelector() as selector:
        selector.register(connection.sock, EVENT_READ)
        return bool(selector.select(0))


def _no_response(error: Exception, *, sent: bool = True) -> NoResponseError:
    if isinstance(error, ssl.SSLCertVerificationError):
        correction = _CORRECTIONS.get(error.verify_code)
        problem = error.verify_message.rstrip(".") + (f"; {correction}" if correction else "")
        return TrustError(f"the certificate of the service is refused: {problem}", sent=sent)
    if isinstance(error, ssl.SSLError) and _CERTIFICATE_ALERT.search(error.reason or ""):
        # With TLS 1.3, this alert arrives after the client's handshake, but before the server's:
        # the server has read no request.
        problem = "the service refuses the client certificate, or needs one"
        return NoResponseError(f"{problem}: {error.reason}", sent=False)
    return NoResponseError(f"{type(error).__name__}: {error}", sent=sent)


def make_tls_context(
    url: str,
    given: ssl.SSLContext | None,
    ca_file: str | os.PathLike[str] | None,
    cert_file: str | os.PathLike[str] | None,
    key_file: str | os.PathLike[str] | None,
) -> ssl.SSLContext | None:
    """Return the TLS context for a URL: `given`, or one made from the files. None for http.

    Raises the errors of `Client.__init__`.
    """
    if given is not None or _parse(checked_text("url", url)).scheme == "http":
        if cert_file is not None or key_file is not None:
            raise ValueError(
                "cert_file and key_file need an https URL, and can't be combined with tls_context"
            )
        return given
    context = ssl.create_default_context(cafile=ca_file)
    if cert_file is not None:
        # An empty passphrase: OpenSSL would ask the terminal for one.
        context.load_cert_chain(cert_file, key_file, password="")
    elif key_file is not None:
        raise ValueError("key_file needs cert_file, the certificate of that key")
    return context
