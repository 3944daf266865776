"""CORS (https://fetch.spec.whatwg.org/#http-cors-protocol): which web pages may read responses.

The headers go on every response and every error, whether the ingest endpoint, Flask or the worker
answers.
"""

from collections.abc import Iterable
from typing import Any

from iot_models.origins import Origins

from .responses import Headers, StartResponse, Wsgi

METHODS = "DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT"
EXPOSED = "Idempotent-Replayed, Location, Retry-After, WWW-Authenticate, X-Request-Id"


class Cors:
    """The CORS headers for the allowed origins. No response allows credentials."""

    def __init__(self, origins: Origins) -> None:
        self._origins = origins
        every = [("Access-Control-Allow-Origin", "*"), ("Access-Control-Expose-Headers", EXPOSED)]
        self.without_origin: Headers = every if origins.every else [("Vary", "Origin")]
        """Headers for a request that names no origin, or that could not be parsed."""

    def headers(self, environ: dict[str, Any]) -> Headers:
        """Return the headers for the response to a WSGI request."""
        origin = environ.get("HTTP_ORIGIN", "")
        headers = list(self.without_origin)
        if not origin or not self._origins.allows(origin):
            return headers
        if not self._origins.every:
            headers.append(("Access-Control-Allow-Origin", origin))
            headers.append(("Access-Control-Expose-Headers", EXPOSED))
        if is_preflight(environ):
            headers.append(("Access-Control-Allow-Methods", METHODS))
            requested = environ.get("HTTP_ACCESS_CONTROL_REQUEST_HEADERS", "")
            if requested:
                headers.append(("Access-Control-Allow-Headers", requested))
        return headers

    def wrap(self, app: Wsgi) -> Wsgi:
        """Wrap an app so that each of its responses has the headers."""

        def wrapped(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
            def start(status: str, headers: Headers, *exc_info: Any) -> Any:
                return start_response(status, [*headers, *self.headers(environ)], *exc_info)

            return app(environ, start)

        return wrapped


def is_preflight(environ: dict[str, Any]) -> bool:
    """Return whether a WSGI request is a CORS preflight."""
    return (
        environ["REQUEST_METHOD"] == "OPTIONS"
        and "HTTP_ORIGIN" in environ
        and "HTTP_ACCESS_CONTROL_REQUEST_METHOD" in environ
    )
