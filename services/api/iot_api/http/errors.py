"""The HTTP responses to all errors, for the ingest endpoint and the Flask views."""

import logging
from collections.abc import Callable, Mapping
from typing import Any

from flask import Flask, Response, g, request
from werkzeug.exceptions import HTTPException
from werkzeug.routing.exceptions import WebsocketMismatch

from iot_models import metrics
from iot_models.errors import (
    ErrorCode,
    ForbiddenError,
    IotError,
    TooManyRequestsError,
    UnauthorizedError,
    UnavailableError,
)
from iot_stores.postgres import PoolBusyError
from iot_stores.store_states import report, state_of

from .problems import problem_body, problem_media_type
from .refusal_pace import RefusalPace
from .request_log import note_error
from .responses import Headers, PlainResponse, plain_json_response
from .unexpected_errors import log_defect

RETRY_SECONDS = 1

STATUS = {
    ErrorCode.INVALID_REQUEST: 400,
    ErrorCode.UNAUTHORIZED: 401,
    ErrorCode.FORBIDDEN: 403,
    ErrorCode.NOT_FOUND: 404,
    ErrorCode.METHOD_NOT_ALLOWED: 405,
    ErrorCode.CONFLICT: 409,
    ErrorCode.TOO_LARGE: 413,
    ErrorCode.UNSUPPORTED_MEDIA_TYPE: 415,
    ErrorCode.IDEMPOTENCY_KEY_REUSED: 422,
    ErrorCode.TOO_MANY_REQUESTS: 429,
    ErrorCode.UNAVAILABLE: 503,
    ErrorCode.DAMAGED: 500,
    ErrorCode.INTERNAL: 500,
}
_CODES = {status: code for code, status in STATUS.items() if status != 500}
_SENTENCES = {
    404: "there is nothing at this path",
    405: "this path has no such method",
    411: "the request must have the header Content-Length",
}

_log = logging.getLogger(__name__)


class ErrorResponder:
    """Answers errors, delays the answers to a client that causes many, and reports each 429."""

    def __init__(
        self,
        pace: RefusalPace,
        on_limit: Callable[[TooManyRequestsError, str, Mapping[str, Any]], None],
    ) -> None:
        """`on_limit` is called with the error, the name of the token and the environ of each
        request that is answered 429. It must return immediately.
        """
        self._pace = pace
        self._on_limit = on_limit

    def respond(
        self,
        error: Exception,
        environ: dict[str, Any],
        request_id: str,
        token_name: Callable[[], str],
    ) -> PlainResponse:
        """Return the response to any error of a request."""
        response = error_response(error, request_id, environ.get("HTTP_ACCEPT", ""))
        self._pace.hold_back(environ, response.status)
        code = error.code if isinstance(error, IotError) else _code_of(response.status)
        note_error(environ, code, error)
        if isinstance(error, TooManyRequestsError):
            self._on_limit(error, token_name(), environ)
        return response


def register_errors(app: Flask, errors: ErrorResponder) -> None:
    """Make the app answer every error with the response of `errors`."""

    @app.errorhandler(Exception)
    def answer(error: Exception) -> Response:
        request_id = g.get("request_id", "")
        response = errors.respond(
            error, request.environ, request_id, lambda: str(g.get("token_name", ""))
        )
        return response.for_flask()


def error_response(error: Exception, request_id: str, accept: str = "") -> PlainResponse:
    """Return the response to any error. An unexpected error is logged and answered 500.

    `accept` is the header `Accept` of the request.
    """
    if isinstance(error, HTTPException):
        return _of_werkzeug(error, accept)
    known = _known(error)
    if known is None:
        log_defect(_log, f"defect in request {request_id}", error)
        known = IotError("this is a defect of the server; it has been logged")
    if isinstance(known, TooManyRequestsError):
        metrics.counter("iot_refused_total").labels(known.reason).inc()
    status = STATUS[known.code]
    body = problem_body(status, known.code, str(known), known.details)
    return plain_json_response(
        status, body, *_headers(known), media_type=problem_media_type(accept)
    )


def _headers(error: IotError) -> Headers:
    headers = []
    retry_after = getattr(error, "retry_after", None)
    if retry_after is not None:
        headers.append(("Retry-After", str(retry_after)))
    challenge = _challenge(error)
    if challenge is not None:
        headers.append(("WWW-Authenticate", challenge))
    return headers


def _challenge(error: IotError) -> str | None:
    """Return the value of `WWW-Authenticate` (RFC 6750); None if the error is not about a token."""
    if isinstance(error, UnauthorizedError):
        return 'Bearer error="invalid_token"' if error.presented else "Bearer"
    if isinstance(error, ForbiddenError):
        return f'Bearer error="insufficient_scope", scope="{error.scope}"'
    return None


def _known(error: Exception) -> IotError | None:
    if isinstance(error, IotError):
        return error
    if isinstance(error, PoolBusyError):
        report(_log, "all connections to Postgres are in use", error)
        return UnavailableError(
            "too many requests need the database; try again", retry_after=RETRY_SECONDS
        )
    state = state_of(error)
    if state is None:
        return None
    report(_log, "requests are answered 503", error)
    says = "is away" if state.public == "away" else f"can't serve now ({state.code})"
    return UnavailableError(f"{state.store} {says}; try again", retry_after=RETRY_SECONDS)


def _code_of(status: int) -> ErrorCode:
    return _CODES.get(status, ErrorCode.INVALID_REQUEST if status < 500 else ErrorCode.INTERNAL)


def _of_werkzeug(error: HTTPException, accept: str) -> PlainResponse:
    status = error.code or 500
    sentence = _SENTENCES.get(status, error.description or error.name)
    if isinstance(error, WebsocketMismatch):
        sentence = "Upgrade: the service has no WebSocket; send the request without this header"
    others = [
        (name, value)
        for name, value in error.get_headers()
        if name not in {"Content-Type", "Content-Length"}
    ]
    body = problem_body(status, _code_of(status), sentence)
    return plain_json_response(status, body, *others, media_type=problem_media_type(accept))
