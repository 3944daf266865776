"""The trace of a request: a span from the call of the WSGI app to the last piece of the answer.

The span of a live stream ends when the stream begins, because a live stream may take hours.
`create_app` wraps its app in a `TracedApp` only if tracing is on.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from iot_models import tracing

from .request import CONNECTION, REQUEST_ID
from .responses import Headers, StartResponse, Wsgi

_METHODS = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "POST", "PUT"})
_OTHER = "_OTHER"
"""Replaces the method of a request in its span if the method is not in `_METHODS`, because a client
may send any text as the method. OpenTelemetry defines this name."""


class TracedApp:
    """A WSGI app whose requests are spans."""

    def __init__(self, app: Wsgi, ingest_route: Callable[[str], str | None]) -> None:
        """`ingest_route` returns the route of a path if the ingest endpoint answers PUTs to it,
        else None.
        """
        self._app = app
        self._ingest_route = ingest_route

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        method = environ["REQUEST_METHOD"]
        method = method if method in _METHODS else _OTHER
        span = tracing.request_span(
            method, environ.get("HTTP_TRACEPARENT"), {"http.request.method": method}
        )
        if span is None:
            return self._app(environ, start_response)

        def start(status: str, headers: Headers, *exc_info: Any) -> Any:
            route = self._route(environ)
            span.describe(
                f"{method} {route}",
                int(status[:3]),
                {"http.route": route, "iot.request_id": dict(headers).get(REQUEST_ID, "")},
            )
            return start_response(status, headers, *exc_info)

        try:
            with span.current():
                body = self._app(environ, start)
        except BaseException as error:
            span.fail(error)
            span.end()
            raise
        is_stream = getattr(environ.get(CONNECTION), "is_stream", False)
        if is_stream or isinstance(body, tuple):  # the whole answer of the ingest endpoint
            span.end()
            return body
        return _TracedBody(body, span)

    def _route(self, environ: dict[str, Any]) -> str:
        """Return the route of a request, never its path: a path may hold a password."""
        rule = getattr(environ.get("werkzeug.request"), "url_rule", None)
        if rule is not None:
            return str(rule.rule)
        is_put = environ["REQUEST_METHOD"] == "PUT"
        return (is_put and self._ingest_route(environ["PATH_INFO"])) or "none"


class _TracedBody:
    """The pieces of an answer. Each is produced within the span."""

    def __init__(self, body: Iterable[bytes], span: Any) -> None:
        self._body = body
        self._pieces = iter(body)
        self._span = span

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        try:
            with self._span.current():
                return next(self._pieces)
        except StopIteration:
            raise
        except BaseException as error:
            self._span.fail(error)
            raise

    def close(self) -> None:
        """Close the answer and end the span. Also called if the client disconnects early."""
        try:
            close = getattr(self._body, "close", None)
            if close is not None:
                with self._span.current():
                    close()
        finally:
            self._span.end()
