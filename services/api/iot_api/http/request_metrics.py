"""Request ids and request metrics, for the ingest endpoint and the Flask views."""

import os
import re
import time
from collections.abc import Mapping
from functools import cache
from typing import Any

from flask import Flask, Response, g, request

from iot_models import metrics

REQUEST_ID = "X-Request-Id"
_LOGGABLE_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


def new_request_id() -> str:
    """Return 32 random hexadecimal digits: the id of a request that brings none."""
    return os.urandom(16).hex()


def request_id_of(environ: Mapping[str, Any]) -> str:
    """Return the id that a WSGI request brings, if it is fit to log, or else a new one."""
    given = environ.get("HTTP_X_REQUEST_ID")
    if given is not None and _LOGGABLE_ID.fullmatch(given):
        return str(given)
    return new_request_id()


class RequestMetrics:
    """The counters of requests and their durations."""

    def __init__(self) -> None:
        # `labels` takes 3 µs: it builds a key and takes a lock. A cached call takes 0.3 µs, and
        # there are few combinations of labels.
        self._requests = cache(metrics.counter("iot_http_requests_total").labels)
        self._seconds = cache(metrics.histogram("iot_http_request_seconds").labels)

    def observe(self, route: str, method: str, status: int, seconds: float | None) -> None:
        """Count a request; `seconds` is None if it failed before its time was taken."""
        self._requests(route, method, status).inc()
        if seconds is not None:
            self._seconds(route, method).observe(seconds)


def register_request_metrics(app: Flask, request_metrics: RequestMetrics) -> None:
    """Give each response of Flask an `X-Request-Id`, and count it.

    Requests to unknown paths share one label: their paths and methods are the client's choice.
    """

    @app.before_request
    def start() -> None:
        g.started = time.perf_counter()
        g.request_id = request_id_of(request.environ)

    @app.after_request
    def finish(response: Response) -> Response:
        response.headers[REQUEST_ID] = g.get("request_id") or new_request_id()
        route = request.url_rule.rule if request.url_rule else "none"
        method = request.method if request.url_rule else "any"
        seconds = time.perf_counter() - g.started if "started" in g else None
        request_metrics.observe(route, method, response.status_code, seconds)
        return response
