"""What happens to every request on its way to the ingest endpoint or to a Flask view, and back.

Request ids, request metrics, CORS headers, and the client that sent the request.
"""

import os
import re
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from functools import cache, lru_cache
from typing import Any

from flask import Flask, Response, g, request

from iot_api.limits.clients import Client, network_of
from iot_models import metrics
from iot_models.settings import Settings

from .cors import Cors
from .paths import single_slashes
from .responses import Headers, StartResponse, Wsgi

REQUEST_ID = "X-Request-Id"
PROVEN = "iot_api.proven"
"""Key in the WSGI environ: what the client of this connection has proven to know. The worker sets
it. Ids of vaults under whose passwords it sent readings (`Intake.accept`), and cache keys of
passwords (`VaultCache.key`) under which it read some.
"""
Proven = set[uuid.UUID | bytes]
_MAX_PROVEN = 64
_PROXY_HEADERS = frozenset({"HTTP_FORWARDED", "HTTP_VIA", "HTTP_X_FORWARDED_FOR"})
_CACHED_CHARACTERS = 256
"""Longer `X-Forwarded-For` headers are not cached: together they could take megabytes."""
_LOGGABLE_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


class Entrance:
    """The WSGI app of a process."""

    def __init__(
        self,
        ingest: Callable[[dict[str, Any], StartResponse], Iterable[bytes] | None],
        flask: Wsgi,
        cors: Cors,
    ) -> None:
        """`ingest` answers the PUTs of readings, and returns None for all other paths."""
        self._ingest = ingest
        self._flask = flask
        self._cors = cors

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        """Answer a request."""
        if environ["REQUEST_METHOD"] == "PUT":
            answer = self._ingest(environ, start_response)
            if answer is not None:
                return answer
        # Werkzeug would answer several slashes with a redirect, which clients do not follow for a
        # POST.
        if "//" in environ["PATH_INFO"]:
            environ["PATH_INFO"] = single_slashes(environ["PATH_INFO"])
        cors = self._cors
        added = cors.headers(environ) if "HTTP_ORIGIN" in environ else cors.without_origin

        def start(status: str, headers: Headers, *exc_info: Any) -> Any:
            return start_response(status, [*headers, *added], *exc_info)

        return self._flask(environ, start)


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


def client_of(environ: Mapping[str, Any], trusted_proxies: int, token_name: str = "") -> Client:
    """Return the client of a WSGI request, as named by the trusted proxies if there are any.

    `environ` must be gunicorn's, with the address of the peer in `REMOTE_ADDR`.
    """
    forwarded = environ.get("HTTP_X_FORWARDED_FOR", "")
    find = _client if len(forwarded) <= _CACHED_CHARACTERS else _client.__wrapped__
    return find(environ.get("REMOTE_ADDR", ""), forwarded, trusted_proxies, token_name)


@lru_cache(maxsize=4096)
def _client(peer: str, forwarded: str, trusted_proxies: int, token_name: str) -> Client:
    address, proxy = network_of(peer), ""
    forwarded_for = [hop.strip() for hop in forwarded.split(",")] if forwarded else []
    if trusted_proxies:
        if len(forwarded_for) >= trusted_proxies:
            address = network_of(forwarded_for[-trusted_proxies])
    elif forwarded_for:
        address, proxy = f"{address} for {network_of(forwarded_for[-1])}", address
    return Client(f"{token_name}@{address}" if token_name else address, proxy, token_name)


def proven_vaults(environ: Mapping[str, Any], trusted_proxies: int) -> Proven | None:
    """Return what the client of the connection of the request has proven to know.

    None behind a proxy, which sends requests of many clients over one connection: a client could
    guess the passwords of the others without a limit.
    """
    if trusted_proxies or not _PROXY_HEADERS.isdisjoint(environ):
        return None
    proven: Proven | None = environ.get(PROVEN)
    return proven


def prove(proven: Proven, known: Iterable[uuid.UUID | bytes]) -> None:
    """Add what a client has proven to know. If it is too much, forget the rest."""
    if len(proven) > _MAX_PROVEN:
        proven.clear()
    proven.update(known)


def requesting_client(settings: Settings) -> Client:
    """Return the client of the request that a Flask view answers."""
    return client_of(request.environ, settings.trusted_proxies, g.get("token_name", ""))
