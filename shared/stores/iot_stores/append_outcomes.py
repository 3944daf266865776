"""Outcomes of the script that appends entries to the backlog (`backlog_append.lua`)."""

import math
from enum import IntEnum
from typing import NoReturn

from iot_models.errors import Refusal, TooManyRequestsError, UnavailableError

UNKNOWN_RATE_SECONDS = 5
"""`Retry-After` if the backlog is full and the number of bytes drained per second is unknown."""
MAX_RETRY_SECONDS = 60


class AppendOutcome(IntEnum):
    """What `backlog_append.lua` did with a request.

    For each request, the script returns a list that begins with one of these numbers. There are two
    exceptions. For an added request with a single entry, the script returns only a number: how many
    bytes were ever added to the entry's shard. For a request with a command that Redis refused, the
    script returns the error.
    """

    FULL = 0
    ADDED = 1
    REMEMBERED = 2
    GUARDED = 3
    TOO_MANY = 4
    TOO_MANY_OF_CLIENT = 5
    DAMAGED = 6
    LOST = 7


class GuardLimitError(Exception):
    """The counter of a `Guard` is at its limit: nothing was appended.

    `seconds`: the time until the counter expires.
    """

    def __init__(self, seconds: int) -> None:
        super().__init__("a counter that the append had to check is at its limit")
        self.seconds = seconds


def refuse(outcome: int, *more: int) -> NoReturn:
    """Raise the error for a request whose entries `backlog_append.lua` did not append.

    `more`: the numbers that the script returned after `outcome`.

    Raises:
        GuardLimitError: the counter of a `Guard` is at its limit.
        TooManyRequestsError: the client has too many remembered requests (Idempotency-Key).
        UnavailableError: the backlog is full, all clients together have too many remembered
            requests, or Redis has lost the client's earlier attempt at this request
            (`RememberedRequest.earlier`).
    """
    if outcome == AppendOutcome.LOST:
        raise UnavailableError(
            "Redis has lost the record of an earlier attempt at this request (Idempotency-Key); "
            "this attempt stored nothing, try again"
        )
    if outcome == AppendOutcome.FULL:
        raise _full(*more)
    if outcome == AppendOutcome.GUARDED:
        raise GuardLimitError(more[0])
    seconds = max(1, more[0])
    if outcome == AppendOutcome.TOO_MANY_OF_CLIENT:
        raise TooManyRequestsError(
            "this client has too many remembered requests with an Idempotency-Key; "
            "nothing was stored",
            retry_after=seconds,
            reason=Refusal.REMEMBERED_REQUESTS,
        )
    raise UnavailableError(
        "the service remembers too many requests with an Idempotency-Key; nothing was stored",
        retry_after=seconds,
    )


def _full(excess: int, rate: int) -> UnavailableError:
    """Return the error for a full backlog. Clients may retry once the excess is drained.

    `excess`: bytes above the limit. `rate`: bytes drained per second; 0: unknown.
    """
    seconds = math.ceil(excess / rate) if rate else UNKNOWN_RATE_SECONDS
    retry_after = min(max(seconds, 1), MAX_RETRY_SECONDS)
    return UnavailableError("the backlog is full; nothing was stored", retry_after=retry_after)
