"""Responses of the worker itself: to invalid HTTP, and to errors that the app did not answer.

Neither the responses nor the log contain the message of a `ParseException`, because the message
quotes the bytes that could not be parsed. These bytes may be a token or a part of a body. A
response may contain the name of a well-known header.
"""

from collections.abc import Mapping

from gunicorn.http import errors
from gunicorn.http.errors import ParseException

from iot_models import metrics
from iot_models.errors import ErrorCode

from .problems import problem_body
from .request import new_request_id
from .responses import Headers

REFUSALS: Mapping[type[Exception], tuple[int, str, str]] = {
    errors.InvalidRequestLine: (400, "Bad Request", "the request line is not valid HTTP"),
    errors.InvalidRequestMethod: (400, "Bad Request", "the method is not valid"),
    errors.InvalidHTTPVersion: (400, "Bad Request", "the version of HTTP is not supported"),
    errors.InvalidHeader: (400, "Bad Request", "a header is not valid"),
    errors.InvalidHeaderName: (400, "Bad Request", "the name of a header is not valid"),
    errors.ObsoleteFolding: (400, "Bad Request", "a header is folded over several lines"),
    errors.InvalidChunkSize: (400, "Bad Request", "the size of a chunk is not valid"),
    errors.InvalidChunkExtension: (400, "Bad Request", "the extension of a chunk is not valid"),
    errors.ChunkMissingTerminator: (400, "Bad Request", "a chunk does not end where it should"),
    errors.LimitRequestLine: (414, "URI Too Long", "the request line is too long"),
    errors.LimitRequestHeaders: (
        431,
        "Request Header Fields Too Large",
        "the headers are too many or too long",
    ),
    errors.ExpectationFailed: (417, "Expectation Failed", "Expect: only 100-continue is supported"),
    errors.UnsupportedTransferCoding: (
        501,
        "Not Implemented",
        "Transfer-Encoding: only chunked is supported",
    ),
}
_OTHER = (400, "Bad Request", "the request is not valid HTTP")
_HEADERS = {
    name.upper(): name
    for name in (
        *("Accept", "Accept-Encoding", "Authorization", "Content-Encoding", "Content-Length"),
        *("Content-Type", "Cookie", "Host", "Idempotency-Key", "Last-Event-ID", "Origin"),
        *("Transfer-Encoding", "User-Agent", "X-Request-Id"),
    )
}
"""The headers that a response may name, by their names in gunicorn's errors. An error may have a
whole line instead of a name, and the line may be a secret."""


def refusal_of(error: ParseException, headers: Headers) -> bytes:
    """Return the response to a request that is not valid HTTP, with `headers` added.

    The response names the header at fault if it is one of `_HEADERS`.
    The metrics count the request like a request to an unknown path.
    """
    kinds = [kind for kind in type(error).__mro__ if kind in REFUSALS]
    status, reason, sentence = REFUSALS[kinds[0]] if kinds else _OTHER
    if name := _HEADERS.get(getattr(error, "hdr", "")):
        sentence = sentence.replace("a header", f"the header {name}")
    metrics.counter("iot_http_requests_total").labels("none", "any", status).inc()
    body = problem_body(status, ErrorCode.INVALID_REQUEST, sentence)
    return _closing_response(status, reason, body, headers)


def defect_response(headers: Headers) -> bytes:
    """Return a 500 response for an error that the app did not answer, with `headers` added."""
    sentence = "this is a defect of the server; it has been logged"
    body = problem_body(500, ErrorCode.INTERNAL, sentence)
    return _closing_response(500, "Internal Server Error", body, headers)


def _closing_response(status: int, reason: str, body: bytes, headers: Headers) -> bytes:
    head = (
        f"HTTP/1.1 {status} {reason}\r\nConnection: close\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nX-Request-Id: {new_request_id()}\r\n"
    )
    added = "".join(f"{name}: {value}\r\n" for name, value in headers)
    return f"{head}{added}\r\n".encode("latin-1") + body
