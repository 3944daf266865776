"""Checks of arguments, so that the call with a wrong argument fails, not a later call."""

import threading
from collections.abc import Callable
from numbers import Real
from typing import TypeVar

from .retry import RetryPolicy

T = TypeVar("T")
_YEAR = 366 * 86_400


def checked_text(name: str, value: str) -> str:
    """Return `value`. Raises `TypeError` if it is not a `str`."""
    return checked(name, value, str, "a str")


def checked_token(token: str | Callable[[], str] | None) -> str | Callable[[], str] | None:
    """Return `token`. Raises `TypeError` if it is neither a `str`, nor a function, nor None."""
    return token if token is None or callable(token) else checked_text("token", token)


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


def checked_stop(stop: threading.Event | None) -> threading.Event:
    """Return `stop`, or a new event without it. Raises `TypeError` if it is not an event."""
    return checked("stop", stop or threading.Event(), threading.Event, "a threading.Event")


def checked(name: str, value: T, kind: type, description: str) -> T:
    """Return `value`. Raises `TypeError` if it is not an instance of `kind`.

    The message is `<name> must be <description>`, with a description such as "a str".
    """
    if not isinstance(value, kind):
        raise TypeError(f"{name} must be {description}, not {type(value).__name__}")
    return value
