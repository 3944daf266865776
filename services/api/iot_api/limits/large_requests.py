"""Large requests: one at a time in a process, and a tenth of its time while others want it."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from .clients import Client
from .fair_slots import FairSlots
from .pace import Pace

LARGE_BYTES = 2**20
"""Unpacked bytes of a body from which a request is large. A body of 16 MiB takes a worker 0.1 to
0.4 s, a part of it in one piece, for which every other request waits."""
DENSE_BYTES, DENSITY = 16 * 1024, 32
"""A body that unpacks to so many times what has arrived is large from so many bytes on: else a
hundred bytes would keep a worker busy for as long as a megabyte does."""
WAIT_SECONDS = 20.0
MOST_WAITING, MOST_WAITING_PER_CLIENT = 16, 4
_REFUSAL = "too many large requests wait; try again"


class LargeRequests:
    """Lets one large body at a time be unpacked and parsed. Small ones are counted only."""

    def __init__(self, pace: Pace | None = None) -> None:
        self._pace = pace or Pace()
        self._slots = FairSlots(
            1, most_waiting=MOST_WAITING, most_waiting_per_client=MOST_WAITING_PER_CLIENT
        )
        self._small_before = 0
        """Small requests when the last large one ended."""
        self.small = 0
        """Small requests so far."""

    @contextmanager
    def turn(self, client: Client) -> Iterator["Turn"]:
        """Unpack and parse a body of unknown size; `Turn.grow` is told how large it gets."""
        with ExitStack() as held:
            turn = Turn(self, client, held)
            yield turn
            if not turn.is_large:
                self.small += 1

    @contextmanager
    def slot(self, client: Client) -> Iterator[None]:
        """Hold the slot of large bodies.

        Raises:
            TooManyRequestsError: too many wait for it.
        """
        with (
            self._slots.slot(client, seconds=WAIT_SECONDS, refusal=_REFUSAL),
            self._pace.work(self._small_came),
        ):
            yield

    def _small_came(self) -> bool:
        """Whether small requests were answered since the large one before: while a body is parsed
        in one piece, none is.
        """
        came = self.small > self._small_before
        self._small_before = self.small
        return came


class Turn:
    """One request."""

    def __init__(self, requests: LargeRequests, client: Client, held: ExitStack) -> None:
        self._requests = requests
        self._client = client
        self._held = held
        self.is_large = False

    def grow(self, size: int, received: int) -> None:
        """Wait for the slot if a body is large that unpacks from `received` bytes to `size`.

        Raises:
            TooManyRequestsError: too many wait for it.
        """
        dense = size >= DENSE_BYTES and size > DENSITY * received
        if (dense or size >= LARGE_BYTES) and not self.is_large:
            self.is_large = True
            self._held.enter_context(self._requests.slot(self._client))
