"""HTTP servers of tests, and kube configs for them."""

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path


class QuietHandler(BaseHTTPRequestHandler):
    """A handler that keeps connections open and the output of the tests clean."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # answers would wait 40 ms for an ACK

    def body(self) -> bytes:
        """Read the body of the request."""
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def answer(self, status: int, content: bytes, headers: Mapping[str, str] = {}) -> None:
        """Send an answer."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@contextmanager
def serving(server: HTTPServer) -> Iterator[None]:
    """Run a server in a thread within the block."""
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def write_kube_config(
    path: Path, url: str, *, user: Mapping[str, str], context: Mapping[str, str]
) -> Path:
    """Write a kube config for a server, a user and further fields of the context."""
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "clusters": [{"name": "c", "cluster": {"server": url}}],
        "users": [{"name": "u", "user": dict(user)}],
        "contexts": [{"name": "test", "context": {"cluster": "c", "user": "u", **context}}],
    }
    path.write_text(json.dumps(content), encoding="utf-8")
    return path
