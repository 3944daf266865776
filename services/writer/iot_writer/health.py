"""The writer's port for monitoring and probes: /metrics, /healthz, /readyz."""

import json
from collections.abc import Iterable
from threading import Thread
from typing import TYPE_CHECKING, cast
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import make_wsgi_app
from prometheus_client.exposition import ThreadingWSGIServer

from iot_models import metrics
from iot_models.errors import SettingsError
from iot_stores.readiness import Readiness

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment


class HealthApp:
    """A WSGI app. `/healthz` knows no dependency, `/readyz` does; the rest is the metrics."""

    def __init__(self, readiness: Readiness) -> None:
        self._readiness = readiness
        metrics.begin("writer")
        self._metrics = make_wsgi_app()

    def __call__(
        self, environ: "WSGIEnvironment", start_response: "StartResponse"
    ) -> Iterable[bytes]:
        """Answer one request."""
        match environ.get("PATH_INFO"):
            case "/healthz":
                return _answer(start_response, "200 OK", {"status": "ok"})
            case "/readyz":
                state = self._readiness.state()
                if self._readiness.ready(state):
                    return _answer(start_response, "200 OK", {"status": "ready", **state})
                content = {"status": "not ready", **state}
                return _answer(start_response, "503 Service Unavailable", content)
            case "/metrics":
                return cast("Iterable[bytes]", self._metrics(environ, start_response))
            case _:
                content = {"error": "there are /metrics, /healthz and /readyz"}
                return _answer(start_response, "404 Not Found", content)


def _answer(
    start_response: "StartResponse", status: str, content: dict[str, str]
) -> Iterable[bytes]:
    start_response(status, [("Content-Type", "application/json")])
    return [json.dumps(content).encode()]


class _Silent(WSGIRequestHandler):
    """Probes and scrapes come every few seconds: not one of them goes to the log."""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name it has
        pass


def serve_health(readiness: Readiness, address: str, port: int) -> WSGIServer:
    """Serve from a thread, until the process ends.

    Raises:
        SettingsError: the port can't be had.
    """
    try:
        server = make_server(address, port, HealthApp(readiness), ThreadingWSGIServer, _Silent)
    except OSError as error:
        raise SettingsError(
            f"IOT_WRITER_METRICS_PORT: {port} of {address} can't be listened on: {error.strerror}"
        ) from None
    Thread(target=server.serve_forever, name="health", daemon=True).start()
    return server
