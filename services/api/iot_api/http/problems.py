"""The body of every error: the members `error` and `code`, and the members of RFC 9457.

`error` and `code` come first, because the body of an error began with them in earlier versions.
"""

from collections.abc import Mapping
from types import MappingProxyType

from werkzeug.datastructures import MIMEAccept
from werkzeug.http import parse_accept_header

from iot_models.errors import ErrorCode

from .responses import JSON, json_body

PROBLEM_JSON = "application/problem+json"
TYPE_PREFIX = "urn:iot-sensor:error:"
"""Beginning of the member `type`, before the error code."""
TITLES: Mapping[ErrorCode, str] = MappingProxyType(
    {
        ErrorCode.INVALID_REQUEST: "Invalid request",
        ErrorCode.UNAUTHORIZED: "Token required",
        ErrorCode.FORBIDDEN: "Scope required",
        ErrorCode.NOT_FOUND: "Not found",
        ErrorCode.METHOD_NOT_ALLOWED: "Method not allowed",
        ErrorCode.CONFLICT: "Conflict",
        ErrorCode.TOO_LARGE: "Request too large",
        ErrorCode.UNSUPPORTED_MEDIA_TYPE: "Unsupported media type",
        ErrorCode.IDEMPOTENCY_KEY_REUSED: "Idempotency-Key reused",
        ErrorCode.TOO_MANY_REQUESTS: "Too many requests",
        ErrorCode.UNAVAILABLE: "Service unavailable",
        ErrorCode.DAMAGED: "Stored data damaged",
        ErrorCode.INTERNAL: "Internal error",
    }
)


def problem_body(
    status: int,
    code: ErrorCode,
    sentence: str,
    details: Mapping[str, object] = MappingProxyType({}),
) -> bytes:
    """Return the body of an error. `details` are further members."""
    return json_body(
        {
            "error": sentence,
            "code": code,
            **details,
            "type": TYPE_PREFIX + code,
            "title": TITLES[code],
            "status": status,
            "detail": sentence,
        }
    )


def problem_media_type(accept: str) -> str:
    """Return the media type of an error for a request with this `Accept` header.

    It is `application/problem+json` if the header names that type and does not prefer
    `application/json`. Wildcards do not count, because old clients send `*/*`.
    """
    if PROBLEM_JSON not in accept.lower():
        return JSON
    accepted = parse_accept_header(accept, MIMEAccept)
    named = max((quality for kind, quality in accepted if kind.lower() == PROBLEM_JSON), default=0)
    return PROBLEM_JSON if named > 0 and named >= accepted.quality(JSON) else JSON
