"""A small HTTP server that answers as the test tells it."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

CLOSE = 0
"""Instead of a status: close the connection without a response."""


@dataclass(frozen=True)
class Received:
    """A request as the server received it."""

    method: str
    path: str
    headers: dict[str, str]
    """Names in lower case."""
    body: bytes
    connection: int
    """The port of the client: it tells connections apart."""


class Server:
    """Answers with `answers` in turn, then 200 or `status_of`; records all requests."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, dict[str, str]]] = []
        self.body = b"{}"
        self.status_of: Callable[[Received], int] | None = None
        """Chooses the status of a request when `answers` is empty."""
        self.closes = False
        """Close the connection after each response, without announcing it."""
        self.received: list[Received] = []
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}"

    @property
    def connections(self) -> int:
        """Connections that carried a request."""
        return len({request.connection for request in self.received})

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True  # answers would wait 40 ms for an ACK

            def _answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                headers = {name.lower(): value for name, value in self.headers.items()}
                port = self.client_address[1]
                received = Received(self.command, self.path, headers, body, port)
                server.received.append(received)
                chosen = server.status_of(received) if server.status_of else 200
                status, extra = server.answers.pop(0) if server.answers else (chosen, {})
                if status == CLOSE:
                    self.close_connection = True
                    return
                self.send_response(status)
                for name, value in extra.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(server.body)))
                self.end_headers()
                self.wfile.write(server.body)
                self.close_connection |= server.closes

            do_GET = do_PUT = do_POST = _answer  # noqa: N815 -- the names http.server calls

            def log_message(self, *_: object) -> None:
                """Keep the output of the tests clean."""

        return Handler


@pytest.fixture
def server() -> Iterator[Server]:
    """A server that runs."""
    made = Server()
    thread = threading.Thread(target=made.http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    made.http.shutdown()
    made.http.server_close()
    thread.join()
