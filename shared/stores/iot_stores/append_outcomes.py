"""How the script that appends entries ends (`backlog_append.lua`)."""

import math
from enum import IntEnum
from typing import NoReturn

from iot_models.errors import TooManyRequestsError, UnavailableError

UNKNOWN_RATE_SECONDS, MAX_RETRY_SECONDS = 5, 60


class AppendOutcome(IntEnum):
    """The first number of the script's answer."""

    FULL = 0
    ADDED = 1
    REMEMBERED = 2
    GUARDED = 3
    TOO_MANY = 4
    TOO_MANY_OF_CLIENT = 5
    DAMAGED = 6


class GuardedError(Exception):
    """A guard was at its limit; nothing was appended. `seconds` is its TTL in Redis."""

    def __init__(self, seconds: int) -> None:
        super().__init__("a guard was at its limit")
        self.seconds = seconds


def refuse(outcome: int, *more: int) -> NoReturn:
    """Raise the error of an outcome with which nothing was appended.

    Raises:
        GuardedError, TooManyRequestsError, UnavailableError
    """
    if outcome == AppendOutcome.FULL:
        raise _full(*more)
    if outcome == AppendOutcome.GUARDED:
        raise GuardedError(more[0])
    seconds = max(1, more[0])
    if outcome == AppendOutcome.TOO_MANY_OF_CLIENT:
        raise TooManyRequestsError(
            "too many requests with an Idempotency-Key from this client; nothing was stored",
            retry_after=seconds,
        )
    raise UnavailableError(
        "too many requests with an Idempotency-Key are remembered; nothing was stored",
        retry_after=seconds,
    )


def _full(excess: int, rate: int) -> UnavailableError:
    """Full, until what is too much is drained at the rate of the last seconds."""
    seconds = math.ceil(excess / rate) if rate else UNKNOWN_RATE_SECONDS
    retry_after = min(max(seconds, 1), MAX_RETRY_SECONDS)
    return UnavailableError("the backlog is full; nothing was stored", retry_after=retry_after)
