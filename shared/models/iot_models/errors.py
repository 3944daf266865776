"""One hierarchy for everything that can go wrong; each class carries the code a client sees."""

from enum import StrEnum
from typing import ClassVar


class ErrorCode(StrEnum):
    """Stable codes: clients may rely on them, so none is ever renamed or given a new meaning."""

    INVALID_REQUEST = "invalid_request"
    UNAUTHORIZED = "unauthorized"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not_found"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    TOO_LARGE = "too_large"
    UNSUPPORTED_MEDIA_TYPE = "unsupported_media_type"
    TOO_MANY_REQUESTS = "too_many_requests"
    UNAVAILABLE = "unavailable"
    DAMAGED = "damaged"
    INTERNAL = "internal"


class IotError(Exception):
    """Base of every error this project raises on purpose.

    `details` goes to the client beside the message, so it holds nothing secret.
    """

    code: ClassVar[ErrorCode] = ErrorCode.INTERNAL

    def __init__(self, message: str, **details: object) -> None:
        super().__init__(message)
        self.details = details


class SettingsError(IotError):
    """An environment variable is missing or wrong; the message names it."""


class InvalidRequestError(IotError):
    """The request says something that can't be understood; nothing of it was stored."""

    code = ErrorCode.INVALID_REQUEST


class UnauthorizedError(IotError):
    """The request needs a token; `presented` tells whether it brought one, which is not known."""

    code = ErrorCode.UNAUTHORIZED

    def __init__(self, message: str, *, presented: bool) -> None:
        super().__init__(message)
        self.presented = presented


class ForbiddenError(IotError):
    """The request's token lacks a scope."""

    code = ErrorCode.FORBIDDEN

    def __init__(self, message: str, *, scope: str) -> None:
        super().__init__(message, scope=scope)
        self.scope = scope


class TooLargeError(IotError):
    """The request's body, or the number of its readings, is over the limit."""

    code = ErrorCode.TOO_LARGE


class UnsupportedMediaTypeError(IotError):
    """The request's body is in a form that is not spoken here."""

    code = ErrorCode.UNSUPPORTED_MEDIA_TYPE


class TooManyRequestsError(IotError):
    """A limit on the rate of requests was reached; `retry_after` tells seconds to wait."""

    code = ErrorCode.TOO_MANY_REQUESTS

    def __init__(self, message: str, *, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class UnavailableError(IotError):
    """A part the answer needs is away or full; `retry_after` tells seconds to wait."""

    code = ErrorCode.UNAVAILABLE

    def __init__(self, message: str, *, retry_after: int = 1) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class DecryptionError(IotError):
    """A ciphertext was changed, moved, cut, or is under a key that is not ours.

    The one failure of everything encrypted: it says neither which of these it was nor
    anything of the key.
    """

    code = ErrorCode.DAMAGED


class FormatError(IotError):
    """Stored bytes are not in a format this version reads."""

    code = ErrorCode.DAMAGED
