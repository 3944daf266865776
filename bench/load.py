"""A load generator: sends prepared requests over connections that stay open.

It shares the cores with the servers that it measures, so it must cost as little CPU as possible. It
therefore uses sockets and not `iot_sensor_client`, whose requests cost several times as much.
"""

import re
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

TIMEOUT_SECONDS = 60
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)

Lane = Iterable[bytes]
"""The requests that one connection sends, one after the other."""


@dataclass(frozen=True, slots=True)
class Wire:
    """How a service under load accepts readings over HTTP."""

    method: str
    path: str
    content_type: str
    status: int
    """Status of the response that acknowledges readings."""
    batch: Callable[[int, int, str], bytes]
    """Returns the body of a batch, given the number of its first reading, the number of readings,
    and the vault."""
    single: Callable[[int, str], str]
    """Returns the body of one reading, given its number and the vault."""

    def body(self, begin: int, count: int, vault: str) -> bytes:
        """Return the body of `count` readings from the number `begin` on."""
        return self.single(begin, vault).encode() if count == 1 else self.batch(begin, count, vault)

    def request(self, body: bytes) -> bytes:
        """Return a complete HTTP request."""
        head = (
            f"{self.method} {self.path} HTTP/1.1\r\nHost: bench\r\n"
            f"Content-Type: {self.content_type}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body


@dataclass(frozen=True, slots=True)
class Sent:
    """Requests and duration of a load."""

    requests: int
    seconds: float


def send(port: int, lanes: Sequence[Lane], status: int) -> Sent:
    """Send the requests of all lanes at the same time, each lane over a connection of its own.

    A connection sends its next request after the response to the last one.

    Raises:
        RuntimeError: a response has another status than `status`, or a connection failed.
    """
    failures: list[str] = []
    counts = [0] * len(lanes)

    def run(number: int, lane: Lane) -> None:
        try:
            with Connection(port) as connection:
                for request in lane:
                    connection.request(request, status)
                    counts[number] += 1
        except (OSError, RuntimeError) as error:
            failures.append(str(error))

    threads = [threading.Thread(target=run, args=each, daemon=True) for each in enumerate(lanes)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - began
    if failures:
        raise RuntimeError(failures[0])
    return Sent(sum(counts), seconds)


def shared(requests: Iterable[bytes], lanes: int) -> list[Lane]:
    """Return lanes that share one sequence of requests."""
    lock, source = threading.Lock(), iter(requests)

    def take() -> Iterator[bytes]:
        while True:
            with lock:
                request = next(source, None)
            if request is None:
                return
            yield request

    return [take() for _ in range(lanes)]


def paced(lane: Lane, per_second: float, seconds: float) -> Iterator[bytes]:
    """Yield requests of a lane at a steady rate of `per_second`, for up to `seconds` seconds."""
    began = time.perf_counter()
    for number, request in enumerate(lane):
        now = time.perf_counter() - began
        due = number / per_second
        if max(now, due) > seconds:
            return
        if due > now:
            time.sleep(due - now)
        yield request


class Connection:
    """One connection with one request at a time. Reconnects after the server closed it."""

    def __init__(self, port: int, source: str = "127.0.0.1") -> None:
        """Connect to `port` of this machine, from the address `source`."""
        self._port = port
        self._source = source
        self._socket: socket.socket | None = self._open()

    def __enter__(self) -> "Connection":
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def request(self, request: bytes, status: int) -> bytes:
        """Send a request and return the body of the response, which must have a Content-Length.

        Raises:
            RuntimeError: the response has another status than `status`.
        """
        if self._socket is None:
            self._socket = self._open()
        self._socket.sendall(request)
        head, _, body = self._head(self._socket).partition(b"\r\n\r\n")
        found = _LENGTH.search(head)
        length = int(found[1]) if found else 0
        while len(body) < length:
            body += _receive(self._socket)
        if not head.startswith(b"HTTP/1.1 %d" % status):
            raise RuntimeError((head + b"\n" + body)[:500].decode(errors="replace"))
        if b"\r\nconnection: close" in head.lower():
            self._close()
        return body

    def _open(self) -> socket.socket:
        opened = socket.create_connection(
            ("127.0.0.1", self._port), timeout=TIMEOUT_SECONDS, source_address=(self._source, 0)
        )
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return opened

    def _close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    @staticmethod
    def _head(opened: socket.socket) -> bytes:
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += _receive(opened)
        return answer


def _receive(opened: socket.socket) -> bytes:
    piece = opened.recv(65_536)
    if not piece:
        raise ConnectionError("the server closed the connection before the response was complete")
    return piece
