"""The canary's /metrics and /healthz."""

import threading
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import make_wsgi_app

from iot_models.errors import SettingsError

Start = Callable[[str, list[tuple[str, str]]], Any]


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Handler(WSGIRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing of every scrape."""


def serve(address: str, port: int, alive: Callable[[], bool]) -> int:
    """Serve from a thread until the process ends; /healthz is 200 while `alive`. The port.

    Raises:
        SettingsError: the port can't be had.
    """
    try:
        server = make_server(address, port, _app(alive), _Server, _Handler)
    except OSError as error:
        raise SettingsError(f"port {port} can't be listened on: {error.strerror}") from None
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.server_port


def _app(alive: Callable[[], bool]) -> Callable[[dict[str, Any], Start], Iterable[bytes]]:
    of_metrics = make_wsgi_app()

    def app(environ: dict[str, Any], start: Start) -> Iterable[bytes]:
        path = environ.get("PATH_INFO")
        if path == "/metrics":
            answer: Iterable[bytes] = of_metrics(environ, start)
            return answer
        plain = [("Content-Type", "text/plain; charset=utf-8")]
        if path != "/healthz":
            start("404 Not Found", plain)
            return [b"/metrics or /healthz\n"]
        if alive():
            start("200 OK", plain)
            return [b"alive\n"]
        start("503 Service Unavailable", plain)
        return [b"stuck\n"]

    return app
