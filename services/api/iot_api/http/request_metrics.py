"""What is noted of every request: an id in its answer, its count and its time in the metrics."""

import os
import re
import time

from flask import Flask, Response, g, request

from iot_models import metrics

HEADER = "X-Request-Id"
_FIT = re.compile(r"[A-Za-z0-9._-]{1,128}")


def new_request_id() -> str:
    """The id of a request that came with none: 32 hexadecimal digits."""
    return os.urandom(16).hex()


def register_requests_seen(app: Flask) -> None:
    """Give every answer an `X-Request-Id`: the one the request came with, if it is fit to log."""
    requests = metrics.counter("iot_http_requests_total")
    seconds = metrics.histogram("iot_http_request_seconds")

    @app.before_request
    def begin() -> None:
        g.began = time.perf_counter()
        given = request.headers.get(HEADER, "")
        g.request_id = given if _FIT.fullmatch(given) else new_request_id()

    @app.after_request
    def end(answer: Response) -> Response:
        answer.headers[HEADER] = g.get("request_id") or new_request_id()
        route = request.url_rule.rule if request.url_rule else "none"
        method = request.method if request.url_rule else "any"
        requests.labels(route, method, answer.status_code).inc()
        if "began" in g:
            seconds.labels(route, method).observe(time.perf_counter() - g.began)
        return answer
