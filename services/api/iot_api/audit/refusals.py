"""Counts of refused requests, so that a flood of them can't fill the audit log."""

import threading
import time
from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

PERIOD_SECONDS = 60.0
"""Minimum time between two records of equal refusals (`Refusal`) or reached limits
(`ReachedLimit`). At the end of the process, waiting counts are recorded earlier."""
MAX_KEYS = 100
"""Maximum number of different refusals that a `RefusalCounter` counts separately within
`PERIOD_SECONDS`. Further refusals are counted without their token and client. Otherwise a client
that sends from many addresses could fill the audit log."""


class Refusal(NamedTuple):
    """Why access was refused, and to whom."""

    reason: str
    """`no_token`, `unknown_token`, or `scope`: the token lacks the scope."""
    scope: str
    """The scope that the request needs."""
    token: str | None = None
    """Name of the token; None: no token, an unknown token, or clients that are counted together."""
    client: str | None = None
    """Address of the client; None: several clients that are counted together."""

    def of_any_client(self) -> "Refusal":
        """Return this refusal without token and client, to count all clients together."""
        return Refusal(self.reason, self.scope)


class ReachedLimit(NamedTuple):
    """Which limit was reached, and by whom."""

    reason: str
    """The member `reason` in the body of the 429 answer."""
    token: str | None = None
    client: str | None = None

    def of_any_client(self) -> "ReachedLimit":
        """Return this limit without token and client, to count all clients together."""
        return ReachedLimit(self.reason)


Counted = TypeVar("Counted", Refusal, ReachedLimit)


class RefusalCounter(Generic[Counted]):
    """Counts equal refusals until the counts are recorded. Any number of threads may count."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._counts: dict[Counted, int] = {}
        self._recorded: dict[Counted, float] = {}
        """For each refusal, when `take` last returned its count to be recorded. `take` forgets
        times older than `PERIOD_SECONDS`."""

    def count(self, refusal: Counted) -> None:
        """Count a refusal. Returns immediately."""
        with self._lock:
            if refusal not in self._counts and refusal not in self._recorded:
                known = len(self._counts.keys() | self._recorded.keys())
                if known >= MAX_KEYS:
                    refusal = refusal.of_any_client()
            self._counts[refusal] = self._counts.get(refusal, 0) + 1

    def take(self, *, all_waiting: bool = False) -> list[tuple[Counted, int]]:
        """Remove and return the counts that are due, each with its refusal.

        A count is due if its refusal was not recorded in the last `PERIOD_SECONDS`. With
        `all_waiting`, for the end of the process, all counts are due.
        """
        now = self._clock()
        with self._lock:
            self._recorded = {
                refusal: at for refusal, at in self._recorded.items() if now - at < PERIOD_SECONDS
            }
            due = [
                (refusal, count)
                for refusal, count in self._counts.items()
                if all_waiting or refusal not in self._recorded
            ]
            for refusal, _ in due:
                del self._counts[refusal]
                self._recorded[refusal] = now
        return due

    def put_back(self, refusal: Counted, count: int) -> None:
        """Put back a count that could not be recorded. The next `take` returns it."""
        with self._lock:
            self._recorded.pop(refusal, None)
            self._counts[refusal] = self._counts.get(refusal, 0) + count
