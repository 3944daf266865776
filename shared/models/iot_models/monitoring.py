"""A port for monitoring and probes: `/metrics`, and what else a process tells of itself."""

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
"""Whether all is well (200, else 503), and what to tell of it."""


def serve(
    setting: str,
    address: str,
    port: int,
    checks: Mapping[str, Check],
    registry: CollectorRegistry = REGISTRY,
) -> WSGIServer:
    """Serve `/metrics` and each check at its path, from a thread, until the process ends.

    Raises:
        SettingsError: the port can't be had; the sentence names the `setting` that asks for it.
    """
    kind = _Server6 if ":" in address else ThreadingWSGIServer
    try:
        server = make_server(address, port, _app(checks, registry), kind, _Silent)
    except OSError as error:
        raise SettingsError(
            f"{setting}: {port} of {address} can't be listened on: {error.strerror}"
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
            return _answer(start_response, "404 Not Found", {"error": f"there are {paths}"})
        well, told = checks[path]()
        return _answer(start_response, "200 OK" if well else "503 Service Unavailable", told)

    return app


def _answer(
    start_response: "StartResponse", status: str, content: Mapping[str, str]
) -> Iterable[bytes]:
    start_response(status, [("Content-Type", "application/json")])
    return [json.dumps(dict(content)).encode()]


class _Server6(ThreadingWSGIServer):
    """`::` takes IPv4 as well."""

    address_family = socket.AF_INET6


class _Silent(WSGIRequestHandler):
    """Probes and scrapes come every few seconds: not one of them goes to the log."""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name it has
        pass
