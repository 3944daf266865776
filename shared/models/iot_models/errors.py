"""The exception hierarchy. Each class has the error code that clients get."""

from enum import StrEnum
from typing import ClassVar


class ErrorCode(StrEnum):
    """Error codes. Clients rely on them, so a code never changes its name or meaning."""

    INVALID_REQUEST = "invalid_request"
    UNAUTHORIZED = "unauthorized"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not_found"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    CONFLICT = "conflict"
    TOO_LARGE = "too_large"
    UNSUPPORTED_MEDIA_TYPE = "unsupported_media_type"
    IDEMPOTENCY_KEY_REUSED = "idempotency_key_reused"
    TOO_MANY_REQUESTS = "too_many_requests"
    UNAVAILABLE = "unavailable"
    DAMAGED = "damaged"
    INTERNAL = "internal"


class Refusal(StrEnum):
    """The limit that refused a request. A 429 answer contains its value, and clients rely on it."""

    GUESSES = "guesses"
    """The client sent too many unknown passwords."""
    NEW_VAULTS = "new_vaults"
    """The client created too many vaults."""
    OPENINGS = "openings"
    """The request has too many passwords whose vaults are not open."""
    OPENING_QUEUE = "opening_queue"
    """Too many passwords wait to be hashed (scrypt)."""
    LARGE_REQUESTS = "large_requests"
    """Too many large bodies wait to be parsed, or they take too much memory."""
    REMEMBERED_REQUESTS = "remembered_requests"
    """The client has too many remembered requests with an Idempotency-Key."""
    RATE = "rate"
    """The address or the token sent too many requests in a minute."""
    LIVE_STREAMS = "live_streams"
    """The client or the process has its maximum of live streams."""
    READS = "reads"
    """Too many reads are under way. The answer is a 503, and does not contain this value."""


class IotError(Exception):
    """Base of all errors that this project raises on purpose.

    Clients get the message and `details`, so neither may contain a secret.
    """

    code: ClassVar[ErrorCode] = ErrorCode.INTERNAL

    def __init__(self, message: str, **details: object) -> None:
        super().__init__(message)
        self.details = details


class SettingsError(IotError):
    """A setting is missing or invalid, or the file, port or database that it names is unusable."""


class InvalidRequestError(IotError):
    """The request is invalid, and nothing of it was stored."""

    code = ErrorCode.INVALID_REQUEST


class UnauthorizedError(IotError):
    """The request has no token (`presented` is False), or an invalid token or client certificate
    (`presented` is True)."""

    code = ErrorCode.UNAUTHORIZED

    def __init__(self, message: str, *, presented: bool) -> None:
        super().__init__(message)
        self.presented = presented


class ForbiddenError(IotError):
    """The token of the request lacks a scope."""

    code = ErrorCode.FORBIDDEN

    def __init__(self, message: str, *, scope: str) -> None:
        super().__init__(message, scope=scope)
        self.scope = scope


class NotFoundError(IotError):
    """The request names something that does not exist."""

    code = ErrorCode.NOT_FOUND


class ConflictError(IotError):
    """The current state forbids the request: for example, another vault has the new password."""

    code = ErrorCode.CONFLICT


class TooLargeError(IotError):
    """The body of the request, or the number of its readings, exceeds the limit."""

    code = ErrorCode.TOO_LARGE


class UnsupportedMediaTypeError(IotError):
    """The body of the request has an unsupported media type or encoding."""

    code = ErrorCode.UNSUPPORTED_MEDIA_TYPE


class IdempotencyKeyReusedError(IotError):
    """An earlier request used the same Idempotency-Key for other readings."""

    code = ErrorCode.IDEMPOTENCY_KEY_REUSED


class TooManyRequestsError(IotError):
    """A limit of the client, its token or the process was reached; `reason` says which limit.

    `retry_after`: seconds after which the client may send the request again.
    """

    code = ErrorCode.TOO_MANY_REQUESTS

    def __init__(
        self, message: str, *, retry_after: int, reason: Refusal, **details: object
    ) -> None:
        super().__init__(message, reason=reason, **details)
        self.retry_after = retry_after
        self.reason = reason


class UnavailableError(IotError):
    """The request can't be served now: for example, Postgres is away, or the backlog is full.

    `retry_after`: seconds after which the client may send the request again.
    """

    code = ErrorCode.UNAVAILABLE

    def __init__(self, message: str, *, retry_after: int = 1) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class DecryptionError(IotError):
    """A ciphertext was changed, truncated or copied from another place, or its key is unknown.

    All decryption failures raise this error. Its message does not say why a ciphertext is not
    authentic, so it reveals nothing about the key.
    """

    code = ErrorCode.DAMAGED


class FormatError(IotError):
    """Stored bytes have a format that this version can't read."""

    code = ErrorCode.DAMAGED
