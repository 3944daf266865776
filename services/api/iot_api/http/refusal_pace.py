"""The pace of error answers: they are delayed for a client whose requests fail often.

An error costs the server as much CPU as an acknowledged reading. Without a pace, one client that
ignores `Retry-After` would take the CPU time of all others.
"""

import time
from collections.abc import Callable
from typing import Any

from .request import client_of

PER_SECOND = 50
"""Errors (4xx) per second that a process sends to one address without a delay. After a second
without errors, a burst of this many errors is not delayed either."""
LIMITED_PER_SECOND = 10
"""`PER_SECOND` for 429 answers. It is lower than for other errors, for two reasons. Only a client
that ignores `Retry-After` gets more than ten 429 answers a second. And each 429 answer costs as
much CPU as a PUT, and so delays the PUTs of other clients (docs/adr/0022)."""
MAX_DELAY_SECONDS = 5.0

DELAY = "iot_api.delay"
"""Key in the WSGI environ: seconds for which the worker holds the answer back."""
_MAX_NOTED = 10_000


class RefusalPace:
    """A leaky bucket for each address (the generic cell rate algorithm)."""

    def __init__(self, trusted_proxies: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._trusted_proxies = trusted_proxies
        self._clock = clock
        self._due: dict[str, float] = {}
        """For each address, the time at which its bucket will be empty, if no more errors
        follow."""

    def hold_back(self, environ: dict[str, Any], status: int) -> None:
        """If `status` is 4xx, count the answer for its client. Delay it if the client got many."""
        if 400 <= status < 500:
            rate = LIMITED_PER_SECOND if status == 429 else PER_SECOND
            delay = self.delay(client_of(environ, self._trusted_proxies).sender, rate)
            if delay:
                environ[DELAY] = delay

    def delay(self, address: str, per_second: float = PER_SECOND) -> float:
        """Count an error for an address; return the seconds by which to delay the answer.

        `per_second`: errors a second that are answered without a delay.
        """
        now = self._clock()
        due = max(self._due.get(address, now), now) + 1 / per_second
        if address not in self._due and len(self._due) >= _MAX_NOTED:
            self._due = {each: at for each, at in self._due.items() if at > now}
            if len(self._due) >= _MAX_NOTED:
                self._due.clear()  # addresses start a new burst
        self._due[address] = min(due, now + 1 + MAX_DELAY_SECONDS)
        return min(max(0.0, round(due - now - 1, 6)), MAX_DELAY_SECONDS)
