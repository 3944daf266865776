"""CORS (https://fetch.spec.whatwg.org/#http-cors-protocol): what browsers may read, of answers and
of errors alike, whoever gives them: the app, the plain PUT or the worker.
"""

from collections.abc import Callable, Iterable
from typing import Any

from iot_models.origins import Origins

StartResponse = Callable[..., Any]
Wsgi = Callable[[dict[str, Any], StartResponse], Iterable[bytes]]
Headers = list[tuple[str, str]]

METHODS = "DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT"
EXPOSED = "Idempotent-Replayed, Location, Retry-After, WWW-Authenticate, X-Request-Id"


class Cors:
    """The headers of CORS for the origins that are allowed. No answer allows credentials."""

    def __init__(self, origins: Origins) -> None:
        self._origins = origins
        every = [("Access-Control-Allow-Origin", "*"), ("Access-Control-Expose-Headers", EXPOSED)]
        self.without_origin: Headers = every if origins.every else [("Vary", "Origin")]
        """For a request that names no origin, or could not be parsed."""

    def headers(self, environ: dict[str, Any]) -> Headers:
        """The headers of the answer to a WSGI request."""
        origin = environ.get("HTTP_ORIGIN", "")
        headers = list(self.without_origin)
        if not origin or not self._origins.allows(origin):
            return headers
        if not self._origins.every:
            headers.append(("Access-Control-Allow-Origin", origin))
            headers.append(("Access-Control-Expose-Headers", EXPOSED))
        if is_preflight(environ):
            headers.append(("Access-Control-Allow-Methods", METHODS))
            asked = environ.get("HTTP_ACCESS_CONTROL_REQUEST_HEADERS", "")
            if asked:
                headers.append(("Access-Control-Allow-Headers", asked))
        return headers

    def wrap(self, app: Wsgi) -> Wsgi:
        """The app with these headers on each of its answers."""

        def wrapped(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
            def start(status: str, headers: Headers, *exc_info: Any) -> Any:
                return start_response(status, [*headers, *self.headers(environ)], *exc_info)

            return app(environ, start)

        return wrapped


def is_preflight(environ: dict[str, Any]) -> bool:
    """Whether a browser asks whether it may send a request."""
    return (
        environ["REQUEST_METHOD"] == "OPTIONS"
        and "HTTP_ORIGIN" in environ
        and "HTTP_ACCESS_CONTROL_REQUEST_METHOD" in environ
    )
