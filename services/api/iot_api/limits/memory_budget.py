"""The memory budget of a process: for bodies of requests, and for answers that clients read slowly.

The bytes of a body are charged as they arrive. If Content-Length were charged, a few silent clients
could reserve the whole budget.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from iot_models.errors import UnavailableError
from iot_models.settings import Settings

EXEMPT_BYTES = 16 * 1024
"""Bodies up to this size are not charged. Most requests are that small."""
BODY_FACTOR = 2
"""Bytes of memory that a byte of a body takes while it is parsed and encrypted."""
SLOW_SECONDS = 1.0
SLOW_BYTES_PER_SECOND = 4 * 2**20
"""A request is slow if its bytes, divided by its age in seconds, are fewer than this
(`MemoryBudget`)."""

CHARGE = "iot_api.charge"
"""Key in the WSGI environ: a function that charges the request for bytes. It raises
`UnavailableError` if the budget is used up. The worker refunds the bytes after the response.
"""


def budget_bytes(settings: Settings) -> int:
    """Return the bytes of the budget. At least two bodies of the largest size fit into it."""
    return max(settings.api_request_memory_bytes, 2 * BODY_FACTOR * settings.max_body_bytes)


class OverBudgetError(UnavailableError):
    """A request needs more memory than the whole budget, so it would fail again if repeated."""


class Holder(Protocol):
    """A connection that is charged for memory."""

    @property
    def droppable(self) -> bool:
        """Whether `drop` would free the memory that this holder is charged for."""

    def drop(self) -> None:
        """Make the holder free its memory when its greenlet runs next."""


@dataclass(slots=True)
class _Account:
    since: float
    bytes: int = 0

    def weight(self, now: float) -> float:
        """Return the charged bytes times the seconds since the first charge."""
        return self.bytes * (now - self.since)

    def is_slow(self, now: float) -> bool:
        age = now - self.since
        return age >= SLOW_SECONDS and self.bytes < age * SLOW_BYTES_PER_SECOND


class MemoryBudget:
    """Bytes of memory that all requests of a process share.

    A request is slow if it was first charged at least `SLOW_SECONDS` ago and holds less than
    `SLOW_BYTES_PER_SECOND` times its age. When the budget is used up, one slow request is dropped,
    so that fast clients are served. This is the droppable request (`Holder.droppable`) with the
    largest weight: its bytes times its age. If no slow request is droppable, the request that asks
    for bytes is refused. A slow request that asks for bytes is also refused if its own weight is
    the largest.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.used = 0
        """Charged bytes."""
        self._accounts: dict[Holder, _Account] = {}

    def charge(self, holder: Holder, count: int) -> None:
        """Charge `count` bytes to a holder.

        Raises:
            UnavailableError: the budget is used up, and there is no other request to drop first.
            OverBudgetError: the holder would have more than the budget. No request is dropped.
        """
        if self.used + count > self._limit:
            self._make_room(holder, count)
        account = self._accounts.get(holder)
        if account is None:
            account = self._accounts[holder] = _Account(time.monotonic())
        account.bytes += count
        self.used += count

    def refund(self, holder: Holder, count: int) -> None:
        """Refund charged bytes. No effect if the holder was dropped meanwhile."""
        account = self._accounts.get(holder)
        if account is not None:
            account.bytes -= count
            self.used -= count

    def release(self, holder: Holder) -> None:
        """Refund everything that a holder was charged."""
        account = self._accounts.pop(holder, None)
        if account is not None:
            self.used -= account.bytes

    def _make_room(self, holder: Holder, count: int) -> None:
        now = time.monotonic()
        own = self._accounts.get(holder)
        if count + (own.bytes if own is not None else 0) > self._limit:
            raise OverBudgetError(
                "the request needs more memory than this server has: send or read less at a time"
            )
        own_weight = own.weight(now) if own is not None and own.is_slow(now) else 0.0
        while self.used + count > self._limit:
            slow = [
                (account.weight(now), other)
                for other, account in self._accounts.items()
                if other.droppable and account.is_slow(now)
            ]
            weight, victim = max(slow, key=lambda candidate: candidate[0], default=(0.0, None))
            if victim is None or weight <= own_weight:
                raise UnavailableError("this server is short of memory; send the request again")
            self.release(victim)
            victim.drop()


def charge_request(environ: Mapping[str, Any], count: int) -> None:
    """Charge a request for `count` bytes in addition to its body.

    No effect if `count` is at most `EXEMPT_BYTES`.

    Raises:
        UnavailableError: the budget of this process is used up.
        OverBudgetError: the request alone would use up the budget.
    """
    charge: Callable[[int], None] | None = environ.get(CHARGE)
    if charge is not None and count > EXEMPT_BYTES:
        charge(count)
