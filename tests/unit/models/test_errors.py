"""Error codes never change, because clients depend on them."""

from iot_models import errors
from iot_models.errors import ErrorCode, IotError, Refusal

CODES = {
    "INVALID_REQUEST": "invalid_request",
    "UNAUTHORIZED": "unauthorized",
    "FORBIDDEN": "forbidden",
    "NOT_FOUND": "not_found",
    "METHOD_NOT_ALLOWED": "method_not_allowed",
    "CONFLICT": "conflict",
    "TOO_LARGE": "too_large",
    "UNSUPPORTED_MEDIA_TYPE": "unsupported_media_type",
    "IDEMPOTENCY_KEY_REUSED": "idempotency_key_reused",
    "TOO_MANY_REQUESTS": "too_many_requests",
    "UNAVAILABLE": "unavailable",
    "DAMAGED": "damaged",
    "INTERNAL": "internal",
}

CODE_OF = {
    "IotError": "internal",
    "SettingsError": "internal",
    "InvalidRequestError": "invalid_request",
    "NotFoundError": "not_found",
    "ConflictError": "conflict",
    "TooLargeError": "too_large",
    "UnsupportedMediaTypeError": "unsupported_media_type",
    "IdempotencyKeyReusedError": "idempotency_key_reused",
    "TooManyRequestsError": "too_many_requests",
    "UnavailableError": "unavailable",
    "DecryptionError": "damaged",
    "FormatError": "damaged",
}


def test_codes_are_stable() -> None:
    codes = {name: code.value for name, code in ErrorCode.__members__.items()}
    assert codes.items() >= CODES.items()


def test_codes_are_unique() -> None:
    # An Enum makes a second name of the same value an alias, which is in __members__ only.
    assert len(ErrorCode.__members__) == len(list(ErrorCode))


def test_every_error_keeps_its_code() -> None:
    classes = {
        name: each
        for name, each in vars(errors).items()
        if isinstance(each, type) and issubclass(each, IotError)
    }
    assert {name: each.code.value for name, each in classes.items()}.items() >= CODE_OF.items()


def test_details_are_kept_beside_the_message() -> None:
    error = errors.InvalidRequestError("row 3 is wrong", row=3, field="relative_time")
    assert str(error) == "row 3 is wrong"
    assert error.details == {"row": 3, "field": "relative_time"}


def test_errors_that_allow_a_retry_have_retry_after() -> None:
    slow_down = errors.TooManyRequestsError("slow", retry_after=7, reason=Refusal.GUESSES)
    assert slow_down.retry_after == 7
    assert slow_down.details == {"reason": "guesses"}
    assert errors.UnavailableError("full", retry_after=9).retry_after == 9
    assert errors.UnavailableError("full").retry_after == 1
    assert errors.UnavailableError("full").details == {}
