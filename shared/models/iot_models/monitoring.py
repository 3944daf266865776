"""The HTTP server for monitoring and probes: `/metrics`, and checks such as `/readyz`."""

import json
import socket
from collections.abc import Callable, Iterable, Mapping
from threading import Thread
from typing import TYPE_CHECKING, cast
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import REGISTRY, CollectorRegistry, make_wsgi_app
from prometheus_client.exposition import ThreadingWSGIServer

from .errors import SettingsError

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

Check = Callable[[], tuple[bool, Mapping[str, str]]]
"""Returns whether the check passed (200, otherwise 503), and the JSON object to answer."""


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
    server_class = _IPv6Server if ":" in address else ThreadingWSGIServer
    try:
        server = make_server(address, port, _app(checks, registry), server_class, _SilentHandler)
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


class _IPv6Server(ThreadingWSGIServer):
    """A server for IPv6 addresses. On `::` it accepts IPv4 too (Linux: bindv6only=0)."""

    address_family = socket.AF_INET6


class _SilentHandler(WSGIRequestHandler):
    """A handler without an access log, because probes and scrapes come every few seconds."""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name in the base class
        pass
