"""Counts of refused requests, so that a flood of them can't fill the audit log."""

import threading
import time
from collections.abc import Callable
from typing import NamedTuple

PERIOD_SECONDS = 60.0
"""Shortest time between two records of the same kind, token and client."""
MAX_KEYS = 100
"""Kinds, tokens and clients that are counted by themselves in a period. The others are counted
together: a client can send from many addresses."""


class Refusal(NamedTuple):
    """Why, and to whom access was refused."""

    reason: str
    """`no_token`, `unknown_token`, or `scope`: the token lacks the scope."""
    scope: str
    """The scope that the request needs."""
    token: str | None = None
    """Name of the token; None: no token, or an unknown one."""
    client: str | None = None
    """Address of the client; None: several clients that are counted together."""


class RefusalCounter:
    """Counts refusals until they are recorded. Any number of threads may count."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._counts: dict[Refusal, int] = {}
        self._recorded: dict[Refusal, float] = {}
        """When each refusal was last recorded, for `PERIOD_SECONDS`."""

    def count(self, refusal: Refusal) -> None:
        """Count a refusal. Returns at once."""
        with self._lock:
            if refusal not in self._counts and refusal not in self._recorded:
                known = len(self._counts.keys() | self._recorded.keys())
                if known >= MAX_KEYS:
                    refusal = Refusal(refusal.reason, refusal.scope)
            self._counts[refusal] = self._counts.get(refusal, 0) + 1

    def take(self, *, all_waiting: bool = False) -> list[tuple[Refusal, int]]:
        """Take the counts that were not recorded in the last period.

        `all_waiting`: take all of them, because the process ends.
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

    def put_back(self, refusal: Refusal, count: int) -> None:
        """Count refusals again that could not be recorded. They are due at once."""
        with self._lock:
            self._recorded.pop(refusal, None)
            self._counts[refusal] = self._counts.get(refusal, 0) + count
