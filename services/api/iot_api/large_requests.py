"""Large requests: one at a time in a process, and a fifth of its time while others want it."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from .fair_slots import FairSlots

LARGE_BYTES = 2**20
"""Unpacked bytes of a body from which a request is large. A body of 16 MiB takes a worker 0.1 to
0.4 s, a part of it in one piece, for which every other request waits."""
REST_FACTOR = 4.0
"""After a large request the next one waits for this many times as long as it took, if other
requests were answered meanwhile, or other processes wanted the processor."""
MOST_REST_SECONDS = 2.0
CONTENDED_SHARE = 0.05
"""The processor is contended when this process waited for it for this part of the time."""
WAIT_SECONDS = 20.0
MOST_WAITING, MOST_WAITING_PER_CLIENT = 16, 4
_SCHEDSTAT = Path("/proc/self/schedstat")
_REFUSAL = "too many large requests wait; try again"


def seconds_waited_for_processor() -> float:
    """For how long this process was ready to run and did not; 0.0 where Linux doesn't tell."""
    try:
        return int(_SCHEDSTAT.read_text(encoding="ascii").split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return 0.0


class LargeRequests:
    """Lets one large body at a time be unpacked and parsed. Small ones are counted only."""

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        waited: Callable[[], float] = seconds_waited_for_processor,
    ) -> None:
        self._clock = clock
        self._waited = waited
        self._sleep = sleep
        self._slots = FairSlots(
            1, most_waiting=MOST_WAITING, most_waiting_per_client=MOST_WAITING_PER_CLIENT
        )
        self._rest_until = 0.0
        self.small = 0
        """Small requests so far."""

    @contextmanager
    def turn(self, client: str) -> Iterator["Turn"]:
        """Unpack and parse a body of unknown size; `Turn.grow` is told how large it is."""
        with ExitStack() as held:
            turn = Turn(self, client, held)
            yield turn
            if not turn.is_large:
                self.small += 1

    @contextmanager
    def slot(self, client: str) -> Iterator[None]:
        """Hold the slot of large bodies.

        Raises:
            TooManyRequestsError: too many wait for it.
        """
        with self._slots.slot(client, seconds=WAIT_SECONDS, refusal=_REFUSAL):
            rest = self._rest_until - self._clock()
            if rest > 0:
                self._sleep(rest)
            began, small, waited = self._clock(), self.small, self._waited()
            try:
                yield
            finally:
                now = self._clock()
                took = now - began
                contended = self._waited() - waited > CONTENDED_SHARE * took
                if self.small > small or contended:
                    self._rest_until = now + min(REST_FACTOR * took, MOST_REST_SECONDS)


class Turn:
    """One request."""

    def __init__(self, requests: LargeRequests, client: str, held: ExitStack) -> None:
        self._requests = requests
        self._client = client
        self._held = held
        self.is_large = False

    def grow(self, size: int) -> None:
        """The body has at least so many bytes, unpacked: from `LARGE_BYTES` on, wait for the slot.

        Raises:
            TooManyRequestsError: too many wait for it.
        """
        if size >= LARGE_BYTES and not self.is_large:
            self.is_large = True
            self._held.enter_context(self._requests.slot(self._client))
