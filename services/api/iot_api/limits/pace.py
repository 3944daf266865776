"""The pace of expensive work: it leaves most of the processor to others while they want it."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

REST_FACTOR = 9.0
"""After a piece of work the next one waits for this many times as long as it took, if others were
served meanwhile, or wanted the processor."""
MOST_REST_SECONDS = 4.0
CONTENDED_SHARE = 0.05
"""The processor is contended when this process waited for it for this part of the time."""
_SCHEDSTAT = Path("/proc/self/schedstat")


def seconds_waited_for_processor() -> float:
    """For how long this process was ready to run and did not; 0.0 where Linux doesn't tell."""
    try:
        return int(_SCHEDSTAT.read_text(encoding="ascii").split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return 0.0


class Pace:
    """Paces one kind of work, of which one piece is done at a time."""

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        waited: Callable[[], float] = seconds_waited_for_processor,
    ) -> None:
        self._clock = clock
        self._sleep = sleep
        self._waited = waited
        self._rest_until = 0.0

    @contextmanager
    def work(self, others_came: Callable[[], bool] = lambda: False) -> Iterator[None]:
        """Rest as the piece before asks for, then do a piece of work."""
        rest = self._rest_until - self._clock()
        if rest > 0:
            self._sleep(rest)
        began, waited = self._clock(), self._waited()
        try:
            yield
        finally:
            now = self._clock()
            took = now - began
            contended = self._waited() - waited > CONTENDED_SHARE * took
            if others_came() or contended:
                self._rest_until = now + min(REST_FACTOR * took, MOST_REST_SECONDS)
