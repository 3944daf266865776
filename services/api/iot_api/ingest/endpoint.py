"""The plain PUT: what devices send all day, answered without Flask's work on each request.

Flask costs more than all that is done with a reading (docs/adr/0009). So a PUT that asks for
nothing special goes straight from gunicorn to the intake. Every other request goes to the app,
and so does whatever is to be said about an error: nothing is answered in two ways.
"""

import time
from collections.abc import Iterable
from typing import Any

from flask import Flask, g

from iot_api.http.access import Access
from iot_api.http.cors import Cors, StartResponse, Wsgi
from iot_api.http.errors import answer_error
from iot_api.http.request_body import JSON_TYPES, read_plain
from iot_api.http.request_metrics import HEADER, new_request_id
from iot_api.limits.clients import client_of, proven_vaults
from iot_api.limits.large_requests import LARGE_BYTES
from iot_api.server import shutdown
from iot_api.service import Service
from iot_models import metrics
from iot_models.scopes import Scope

from .parser import put_parser

PATHS = ("/api/iot", "/api/rssi")
_SPECIAL = frozenset(
    {
        "HTTP_CONTENT_ENCODING",
        "HTTP_IDEMPOTENCY_KEY",
        "HTTP_ORIGIN",
        "HTTP_TRANSFER_ENCODING",
        "HTTP_X_REQUEST_ID",
    }
)
"""Headers that ask for more."""


class PlainPut:
    """Stands before a WSGI app."""

    def __init__(
        self, app: Flask, others: Wsgi, service: Service, access: Access, cors: Cors
    ) -> None:
        """`others` answers every other request."""
        self._app = app
        self._cors = cors
        self._others = others
        self._intake = service.intake
        self._parse = put_parser(service.settings)
        self._max_bytes = min(service.settings.max_body_bytes, LARGE_BYTES - 1)
        self._large_requests = service.large_requests
        self._trusted_proxies = service.settings.trusted_proxies
        self._access = access
        self._headers = [("Content-Type", "application/json"), *cors.without_origin]
        requests = metrics.counter("iot_http_requests_total")
        seconds = metrics.histogram("iot_http_request_seconds")
        self._requests = {path: requests.labels(path, "PUT", 201) for path in PATHS}
        self._seconds = {path: seconds.labels(path, "PUT") for path in PATHS}

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        """Answer a request."""
        if environ["REQUEST_METHOD"] != "PUT" or not self._is_plain(environ):
            return self._others(environ, start_response)
        began = time.perf_counter()
        try:
            token_name = self._access.check(Scope.INGEST, environ.get("HTTP_AUTHORIZATION"))
            batches = self._parse(read_plain(environ))
            client = client_of(environ, self._trusted_proxies, token_name)
            proven = proven_vaults(environ, self._trusted_proxies)
            count = self._intake.accept(batches, client, proven=proven).count
        except Exception as error:  # noqa: BLE001 - answered as the app answers it
            return self._refuse(error, began, environ, start_response)
        answer = b'{"success":"%d object(s) created"}\n' % count
        path = environ["PATH_INFO"]
        self._large_requests.small += 1
        self._requests[path].inc()
        self._seconds[path].observe(time.perf_counter() - began)
        length = ("Content-Length", str(len(answer)))
        start_response("201 CREATED", [*self._headers, length, (HEADER, new_request_id())])
        return [answer]

    def _is_plain(self, environ: dict[str, Any]) -> bool:
        length = environ.get("CONTENT_LENGTH", "")
        return (
            environ["PATH_INFO"] in PATHS
            and not environ["QUERY_STRING"]
            and environ.get("CONTENT_TYPE", "") in JSON_TYPES
            and length.isdecimal()
            and int(length) <= self._max_bytes
            and _SPECIAL.isdisjoint(environ)
            and not shutdown.requested.is_set()
        )

    def _refuse(
        self,
        error: Exception,
        began: float,
        environ: dict[str, Any],
        start_response: StartResponse,
    ) -> Iterable[bytes]:
        with self._app.request_context(environ):
            g.began, g.request_id = began, new_request_id()
            answer = self._app.process_response(answer_error(error))
            return self._cors.wrap(answer)(environ, start_response)
