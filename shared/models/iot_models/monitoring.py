"""The HTTP server for monitoring and probes: `/metrics`, and checks such as `/readyz`."""

import json
import socket
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from threading import Lock, Thread
from typing import TYPE_CHECKING, Any, cast
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import REGISTRY, CollectorRegistry, make_wsgi_app
from prometheus_client.exposition import ThreadingWSGIServer

from .errors import SettingsError

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

MAX_CONNECTIONS = 50
"""Maximum number of open connections. Each probe and each scrape opens one. A connection beyond
the maximum makes the server close the oldest one."""
SILENT_SECONDS = 10.0
"""Seconds after which a client that sends nothing is disconnected."""
Check = Callable[[], tuple[bool, Mapping[str, str]]]
"""Returns whether the check passed, and the JSON object of the answer. The status of the answer is
200 if the check passed, else 503."""


def serve(
    setting: str,
    address: str,
    port: int,
    checks: Mapping[str, Check],
    registry: CollectorRegistry = REGISTRY,
) -> WSGIServer:
    """Serve `/metrics`, and each check at its path, in a thread until the process ends.

    Raises:
        SettingsError: the server can't listen on the port. The message names `setting`.
    """
    server_class = _IPv6Server if ":" in address else _Server
    try:
        server = make_server(address, port, _app(checks, registry), server_class, _Handler)
    except OSError as error:
        raise SettingsError(
            f"{setting}: can't listen on {address} port {port}: {error.strerror}"
        ) from None
    Thread(target=server.serve_forever, name="monitoring", daemon=True).start()
    return server


def _app(checks: Mapping[str, Check], registry: CollectorRegistry) -> "WSGIApplication":
    metrics = make_wsgi_app(registry)
    paths = ", ".join(["/metrics", *checks])

    def app(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        if path == "/metrics":
            return cast("Iterable[bytes]", metrics(environ, start_response))
        if path not in checks:
            return _answer(
                start_response, "404 Not Found", {"error": f"unknown path; use one of {paths}"}
            )
        passed, content = checks[path]()
        return _answer(start_response, "200 OK" if passed else "503 Service Unavailable", content)

    return app


def _answer(
    start_response: "StartResponse", status: str, content: Mapping[str, str]
) -> Iterable[bytes]:
    start_response(status, [("Content-Type", "application/json")])
    return [json.dumps(dict(content)).encode()]


class _Server(ThreadingWSGIServer):
    """A server that answers probes even if clients hold many connections open."""

    request_queue_size = 128

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._lock = Lock()
        self._open: dict[Any, None] = {}
        """The sockets of all connections, the oldest first."""
        super().__init__(*arguments, **options)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer a request in a thread.

        If `MAX_CONNECTIONS` connections are open, first end the oldest one.
        """
        with self._lock:
            if len(self._open) >= MAX_CONNECTIONS:
                oldest = next(iter(self._open))
                del self._open[oldest]
                with suppress(OSError):  # the client is gone
                    oldest.shutdown(socket.SHUT_RDWR)
            self._open[request] = None
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print the traceback of an error, unless it is an `OSError`.

        Clients that disconnect, or send nothing for `SILENT_SECONDS`, cause an `OSError`.
        """
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


class _IPv6Server(_Server):
    """A server that listens on an IPv6 address. On `::`, it also accepts IPv4 connections, unless
    the kernel is configured otherwise (Linux: `net.ipv6.bindv6only=1`)."""

    address_family = socket.AF_INET6


class _Handler(WSGIRequestHandler):
    """A handler without an access log, because probes and scrapes come every few seconds."""

    timeout = SILENT_SECONDS

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name in the base class
        pass
