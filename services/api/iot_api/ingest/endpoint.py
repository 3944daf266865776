"""The ingest endpoint: answers every PUT of readings, in front of the Flask app.

A PUT does not pass through Flask, because Flask costs more than everything else that a reading
needs (docs/adr/0015). The endpoint uses the same access checks, errors, request ids, metrics and
CORS headers as the Flask views.
"""

import time
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any
from urllib.parse import parse_qsl

from iot_api.http.access import Access
from iot_api.http.cors import Cors
from iot_api.http.decompression import check_coding, decompress_body
from iot_api.http.errors import STATUS, ErrorResponder
from iot_api.http.paths import forwarded_prefix, single_slashes
from iot_api.http.request import (
    REQUEST_ID,
    Answered,
    client_of,
    is_ndjson,
    proven_vaults,
    receive_body,
    refuse_repeated,
    request_id_of,
)
from iot_api.http.request_log import LOGGED, RequestLog
from iot_api.http.request_metrics import RequestMetrics
from iot_api.http.responses import (
    JSON,
    PlainResponse,
    StartResponse,
    json_body,
    plain_json_response,
    status_line,
)
from iot_api.limits.clients import Client
from iot_api.limits.large_requests import LARGE_BYTES
from iot_api.service import Service
from iot_models import metrics, tracing
from iot_models.errors import ErrorCode, InvalidRequestError, IotError
from iot_models.scopes import Scope

from .idempotency import parse_idempotency_key
from .imported_times import ImportedTimes
from .intake import Accepted
from .parser import Batch, PutParser, put_parser
from .receipts import encode_receipt

_CODES = {status: code for code, status in STATUS.items()}
_ADMITTED = "iot_api.admitted"
"""Key in the WSGI environ: the name of the token that admitted the request."""
ROUTES = ("/api/iot", "/api/rssi")


class IngestEndpoint:
    """Answers PUTs of readings."""

    def __init__(
        self,
        service: Service,
        access: Access,
        request_metrics: RequestMetrics,
        cors: Cors,
        errors: ErrorResponder,
        request_log: RequestLog,
    ) -> None:
        settings = service.settings
        self._service = service
        self._intake = service.intake
        self._rates = service.rates
        self._parse = tracing.wrap("parse readings", put_parser(settings))
        imported = ImportedTimes(settings.retention_days, settings.clock_skew_max_seconds)
        self._parse_import: PutParser = partial(self._parse, parse_received=imported.parse)
        self._large_requests = service.large_requests
        self._max_body_bytes = settings.max_body_bytes
        self._trusted_proxies = settings.trusted_proxies
        self._access = access
        self._needs_token = access.needs_token(Scope.INGEST)
        self._metrics = request_metrics
        self._body_bytes = metrics.pending_observations("iot_put_body_bytes")
        self._cors = cors
        self._errors = errors
        self._log = request_log

    def __call__(
        self, environ: dict[str, Any], start_response: StartResponse
    ) -> Iterable[bytes] | None:
        """Answer a PUT as a WSGI app; return None if the path does not accept PUTs of readings."""
        route = self.route_of(environ["PATH_INFO"])
        if route is None:
            return None
        status, headers, body = self.answer(environ, route)
        start_response(status_line(status), headers)
        return (body,)

    def route_of(self, path: str) -> str | None:
        """Return the route of a path, None if the path does not accept PUTs of readings."""
        return route_of(path)

    def answer(self, environ: dict[str, Any], route: str) -> PlainResponse:
        """Answer a PUT.

        The worker calls this without WSGI: then `environ` has only the body, and the variables for
        headers, path, query and client.
        """
        started = time.perf_counter()
        request_id = request_id_of(environ)
        try:
            response = self._take(environ)
        except Exception as error:  # noqa: BLE001 - every error has a response
            response = self._errors.respond(
                error, environ, request_id, lambda: environ.get(_ADMITTED, "")
            )
            _count_rejected(error, response.status)
        status, headers, _ = response
        seconds = time.perf_counter() - started
        self._metrics.answered.append((route, "PUT", status, seconds))
        if status >= 400 or seconds >= self._log.logged_from:
            self._log.add(Answered(route, "PUT", status, seconds, request_id), environ)
        headers.append((REQUEST_ID, request_id))
        if self._rates is not None:
            headers += self._rates.headers(environ)
        # Devices send no Origin, so their PUTs skip the call.
        cors = self._cors
        headers += cors.headers(environ) if "HTTP_ORIGIN" in environ else cors.without_origin
        return response

    def _take(self, environ: dict[str, Any]) -> PlainResponse:
        """Accept the readings of a request and return the response. Raise an error to refuse."""
        token_name = ""
        text = environ["QUERY_STRING"]
        query = _first_values(text) if text else None
        is_import = query is not None and query.get("received") == "original"
        if is_import or self._needs_token:
            scope = Scope.ADMIN if is_import else Scope.INGEST
            token_name = environ[_ADMITTED] = self._access.admit(scope, environ)
        client = client_of(environ, self._trusted_proxies, token_name)
        if self._rates is not None:
            self._rates.count(client, environ)
        # An invalid value of `received` is refused only here: the request is counted first.
        keeps_received = query is not None and _keeps_received(query)
        parse = self._parse_import if keeps_received else self._parse
        batches = self._parsed(environ, client, parse)
        waits_until_stored = query is not None and _waits_until_stored(query)
        key = environ.get("HTTP_IDEMPOTENCY_KEY")
        if key is not None:
            refuse_repeated(environ, "Idempotency-Key")
        accepted = self._intake.accept(
            batches,
            client,
            None if key is None else parse_idempotency_key(key),
            with_entries=waits_until_stored or self._log.logs_all,
            proven=proven_vaults(environ, self._trusted_proxies),
        )
        environ[LOGGED] = accepted
        if waits_until_stored and not self._is_stored_in_time(accepted):
            return self._not_yet_stored(environ, accepted)
        body = b'{"success":"%d object(s) created"}\n' % accepted.count
        headers = [("Content-Type", JSON), ("Content-Length", str(len(body)))]
        if accepted.repeated:
            headers.append(("Idempotent-Replayed", "true"))
        return PlainResponse(201, headers, body)

    def _parsed(self, environ: dict[str, Any], client: Client, parse: PutParser) -> list[Batch]:
        """Return the readings in the body of a request. A large body waits for its turn."""
        lines = is_ndjson(environ)
        is_coded = "HTTP_CONTENT_ENCODING" in environ
        if is_coded:
            check_coding(environ)
        body = receive_body(environ, self._max_body_bytes)
        self._body_bytes.values.append(len(body))
        if len(body) < LARGE_BYTES and not is_coded:
            self._large_requests.small += 1
            return parse(body, lines=lines)
        with self._large_requests.turn(client) as turn:
            turn.grow(len(body), len(body))
            body = decompress_body(environ, body, self._max_body_bytes, turn.grow)
            return parse(body, lines=lines)

    def _is_stored_in_time(self, accepted: Accepted) -> bool:
        seconds = self._service.settings.ack_stored_seconds
        return self._service.receipts.wait(accepted.entries, accepted.ends, seconds)

    def _not_yet_stored(self, environ: dict[str, Any], accepted: Accepted) -> PlainResponse:
        success = {"success": f"{accepted.count} object(s) created"}
        prefix = forwarded_prefix(environ, self._trusted_proxies)
        return not_yet_stored(success, encode_receipt(accepted.entries), prefix)


def _count_rejected(error: Exception, status: int) -> None:
    if isinstance(error, IotError):
        reason = error.code
    else:
        reason = _CODES.get(status, ErrorCode.INVALID_REQUEST)
    metrics.counter("iot_puts_rejected_total").labels(reason).inc()


def not_yet_stored(content: Mapping[str, object], receipt: str, prefix: str) -> PlainResponse:
    """Return the response to a request whose readings are acknowledged and not stored yet.

    The member `ask` of the body is the path of the receipt on this server. The header `Location`
    has the path for the client, which begins with `prefix`: proxies remove `prefix` from the path
    of a request.
    """
    ask = f"/api/iot/stored/{receipt}"
    body = json_body({**content, "stored": False, "ask": ask})
    return plain_json_response(202, body, ("Location", prefix + ask), ("Retry-After", "1"))


def route_of(path: str) -> str | None:
    """Return the route of a path, None if the path does not accept PUTs of readings.

    As in Werkzeug's routing, the path may lack the leading slash, and may end with a slash.
    """
    if path in ROUTES:
        return path
    plain = "/" + single_slashes(path).strip("/")
    # Only one slash at the end: `//` has become `/`.
    return plain if plain in ROUTES else None


def _waits_until_stored(query: Mapping[str, str]) -> bool:
    return _choice(query, "ack", "queued", "stored")


def _keeps_received(query: Mapping[str, str]) -> bool:
    """Return whether the query has `received=original`: rows have original times of receipt."""
    return _choice(query, "received", "now", "original")


def _choice(query: Mapping[str, str], parameter: str, default: str, other: str) -> bool:
    """Return whether the query sets `parameter` to `other`, not to its default `default`.

    Raises:
        InvalidRequestError: the value of `parameter` is neither `default` nor `other`.
    """
    given = query.get(parameter)
    if given not in {None, default, other}:
        raise InvalidRequestError(f"{parameter}: must be {default} or {other}", field=parameter)
    return given == other


def _first_values(query: str) -> Mapping[str, str]:
    """Return the parameters of a query. Of a repeated parameter, the first value counts."""
    return dict(reversed(parse_qsl(query, keep_blank_values=True)))
