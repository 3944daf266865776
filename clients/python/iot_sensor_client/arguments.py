"""Checks of arguments, so that the call with a wrong argument fails, not a later call."""

import re
import threading
import uuid
from collections.abc import Sequence
from numbers import Integral, Real
from typing import TypeVar

from .retry import RetryPolicy

T = TypeVar("T")
_YEAR = 366 * 86_400
_TOKEN = re.compile(r"[!-~]*")
_KEY = re.compile(r"[!-~]([ -~]*[!-~])?")


def checked_text(name: str, value: str) -> str:
    """Return `value`. Raises `TypeError` if it is not a `str`."""
    return checked(name, value, str, "a str")


def checked_token(token: str) -> str:
    """Return `token` without the white space around it.

    Raises:
        TypeError: `token` is not a `str`.
        ValueError: `token` has a space, a control character or a non-ASCII character. The message
            does not contain the token, because messages are logged.
    """
    text = checked_text("token", token).strip()
    if not _TOKEN.fullmatch(text):
        raise ValueError("token must be printable ASCII without spaces")
    return text


def checked_key(key: str | None, longest: int = 255) -> str:
    """Return `key`, an Idempotency-Key, or a random key if it is None.

    `key` must not begin or end with a space, because the service removes such spaces.

    Raises:
        TypeError: `key` is not a `str`.
        ValueError: `key` is longer than `longest`, or the service would not accept it unchanged.
    """
    if key is None:
        return str(uuid.uuid4())
    if not _KEY.fullmatch(checked_text("idempotency_key", key)) or len(key) > longest:
        raise ValueError(
            f"idempotency_key must be 1 to {longest} characters of printable ASCII, without spaces "
            "around them"
        )
    return key


def checked_retry(retry: RetryPolicy) -> RetryPolicy:
    """Return `retry`. Raises `TypeError` if it is not a `RetryPolicy`."""
    return checked("retry", retry, RetryPolicy, "a RetryPolicy")


def checked_timeout(name: str, seconds: float | None) -> float | None:
    """Return `seconds`, the timeout of a socket. None: no timeout.

    Error messages call the argument `name`.

    Raises:
        TypeError: `seconds` is not a number.
        ValueError: `seconds` is not greater than 0, or is too large.
    """
    if seconds is None:
        return None
    checked(name, seconds, Real, "a number")
    number = float(seconds)
    if not 0 < number <= threading.TIMEOUT_MAX:
        raise ValueError(f"{name} must be a number of seconds greater than 0, not {number:g}")
    return number


def checked_duration(name: str, seconds: float) -> float:
    """Return `seconds`.

    Raises:
        TypeError: `seconds` is not a number.
        ValueError: `seconds` is less than 0, not finite, or longer than a year.
    """
    number = float(checked(name, seconds, Real, "a number"))
    if not 0 <= number <= _YEAR:
        raise ValueError(f"{name} must be a number of seconds from 0 to {_YEAR}, not {number:g}")
    return number


def checked_count(name: str, count: int) -> int:
    """Return `count`. Raises `TypeError` if it is not an integer, `ValueError` if it is below 1."""
    if checked(name, count, Integral, "an int") < 1:
        raise ValueError(f"{name} must be at least 1, not {count}")
    return count


def checked_choice(name: str, value: T, choices: Sequence[T]) -> T:
    """Return `value`. Raises `ValueError` if it is not one of `choices`."""
    if value not in choices:
        raise ValueError(f"{name} must be {' or '.join(map(repr, choices))}, not {value!r}")
    return value


def checked_stop(stop: threading.Event | None) -> threading.Event:
    """Return `stop`, or a new event if it is None. Raises `TypeError` if it is not an event."""
    return checked("stop", stop or threading.Event(), threading.Event, "a threading.Event")


def checked(name: str, value: T, kind: type, description: str) -> T:
    """Return `value`. Raises `TypeError` if it is not an instance of `kind`.

    The message is `<name> must be <description>`, with a description such as "a str".
    """
    if not isinstance(value, kind):
        raise TypeError(f"{name} must be {description}, not {type(value).__name__}")
    return value
