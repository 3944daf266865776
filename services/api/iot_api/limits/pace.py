"""Pace expensive work, so that it leaves most of the CPU to other requests under contention."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

CONTENDED_REST = 9.0
"""Rest after a piece of work, as a multiple of its duration, if other requests were served
meanwhile or the CPU was contended."""
MAX_REST_SECONDS = 4.0
CONTENDED_SHARE = 0.05
"""The CPU is contended if this process waited for the CPU for more than this share of the duration
of a piece of work."""
_SCHEDSTAT = Path("/proc/self/schedstat")


def seconds_waited_for_cpu() -> float:
    """Return how many seconds this process was runnable but did not run; 0.0 without `/proc`."""
    try:
        return int(_SCHEDSTAT.read_text(encoding="ascii").split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return 0.0


class Moment(Protocol):
    """Stores a time, for example the time until which a `Pace` rests."""

    time: float


class _OwnMoment:
    time = 0.0


class Pace:
    """Limits the share of time that one kind of work takes.

    The caller does one piece of the work at a time.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        waited: Callable[[], float] = seconds_waited_for_cpu,
        *,
        least_rest: float = 0.0,
        rest_until: Moment | None = None,
    ) -> None:
        """`least_rest` is the rest after a piece of work without contention, as a multiple of the
        piece's duration. `rest_until` stores the end of the rest; processes may share it.
        """
        self._clock = clock
        self._sleep = sleep
        self._waited = waited
        self._least_rest = least_rest
        self._rest_until = rest_until or _OwnMoment()

    @property
    def rest(self) -> float:
        """Seconds until the next piece may begin.

        At most `MAX_REST_SECONDS`, even if a process that shares `rest_until` has written a wrong
        time.
        """
        return min(max(0.0, self._rest_until.time - self._clock()), MAX_REST_SECONDS)

    @contextmanager
    def work(self, others_came: Callable[[], bool] = lambda: False) -> Iterator[None]:
        """Wait until the pause after the previous piece is over. The block does the next piece.

        `others_came` returns whether other requests were served since the previous piece ended.
        """
        rest = self.rest
        if rest:
            self._sleep(rest)
        began, waited = self._clock(), self._waited()
        try:
            yield
        finally:
            now = self._clock()
            took = now - began
            contended = self._waited() - waited > CONTENDED_SHARE * took
            factor = CONTENDED_REST if others_came() or contended else self._least_rest
            self._rest_until.time = now + min(factor * took, MAX_REST_SECONDS)
