"""Large requests: a process decompresses and parses one at a time.

While other requests are served or the CPU is contended, large requests get about a tenth of the
process's time.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from iot_models.errors import Refusal, TooManyRequestsError

from .clients import Client
from .fair_slots import FairSlots
from .memory_budget import BODY_FACTOR
from .pace import Pace

LARGE_BYTES = 2**20
"""A request is large if its decompressed body has at least this many bytes. Parsing 16 MiB takes
0.1 to 0.4 s, and for a part of that time the process serves no other request."""
DENSE_BYTES, DENSITY = 16 * 1024, 32
"""A request is also large if its decompressed body has at least `DENSE_BYTES` bytes, and more than
`DENSITY` times the bytes that were received. Otherwise a hundred received bytes could keep a worker
as busy as a megabyte."""
WAIT_SECONDS = 20.0
MAX_WAITING, MAX_WAITING_PER_CLIENT = 16, 4
_REFUSAL = "too many large requests wait; try again"


class LargeBodyMemory:
    """The memory that the large bodies of a process take.

    All large bodies take at most three quarters of the memory budget, and the large bodies of one
    group of clients (`Client.group`) at most half. The rest is for other bodies. If there is no
    other large body, a large body of any size is accepted.
    """

    def __init__(self, budget_bytes: int) -> None:
        self._budget_bytes = budget_bytes
        self._held: Counter[str] = Counter()
        """Reserved bytes, by group of clients."""

    @contextmanager
    def hold(self, group: str, count: int) -> Iterator[None]:
        """Reserve `count` bytes for a large body of a group of clients during the block.

        Raises:
            TooManyRequestsError: the large bodies take too much memory.
        """
        of_group, of_all = self._held[group] + count, self._held.total() + count
        too_much = 2 * of_group > self._budget_bytes or 4 * of_all > 3 * self._budget_bytes
        if too_much and of_all > count:
            raise TooManyRequestsError(_REFUSAL, retry_after=1, reason=Refusal.LARGE_REQUESTS)
        self._held[group] += count
        try:
            yield
        finally:
            self._held -= Counter({group: count})  # removes groups with 0 bytes


class LargeRequests:
    """Limits decompression and parsing to one large body at a time.

    Small bodies never wait. They are counted: if small bodies were served meanwhile, or the CPU was
    contended, there is a pause between two large bodies (`Pace`). A large body stays in memory
    while it waits (`LargeBodyMemory`).
    """

    def __init__(self, memory_bytes: int, pace: Pace | None = None) -> None:
        """`memory_bytes`: the budget for all requests of the process."""
        self._memory = LargeBodyMemory(memory_bytes)
        self._pace = pace or Pace()
        self._slots = FairSlots(
            1,
            max_waiting=MAX_WAITING,
            max_waiting_per_client=MAX_WAITING_PER_CLIENT,
            refusal=_REFUSAL,
            reason=Refusal.LARGE_REQUESTS,
        )
        self._small_before = 0
        """The value of `small` at the end of the last large request."""
        self.small = 0
        """Number of small requests since the start of the process."""

    @contextmanager
    def turn(self, client: Client) -> Iterator["BodyTurn"]:
        """Yield the turn of a request, immediately.

        The block decompresses and parses the body, and reports the body's growth to
        `BodyTurn.grow`, which waits once the body is large.
        """
        with ExitStack() as slot:
            turn = BodyTurn(self, client, slot)
            yield turn
            if not turn.is_large:
                self.small += 1

    @contextmanager
    def slot(self, client: Client, received: int) -> Iterator[None]:
        """Hold the slot for large bodies. `received`: bytes of the whole body as received.

        Raises:
            TooManyRequestsError: too many requests wait for the slot, the large bodies of the
                process take too much memory, or the wait took too long.
        """
        with (
            self._memory.hold(client.group, received * BODY_FACTOR),
            self._slots.slot(client, seconds=WAIT_SECONDS),
            self._pace.work(self._served_small),
        ):
            yield

    def _served_small(self) -> bool:
        """Return whether small requests were served since the last large request ended."""
        served = self.small > self._small_before
        self._small_before = self.small
        return served


class BodyTurn:
    """The handling of one body. It takes the slot for large bodies when the body becomes large."""

    def __init__(self, requests: LargeRequests, client: Client, slot: ExitStack) -> None:
        self._requests = requests
        self._client = client
        self._slot = slot
        self.is_large = False

    def grow(self, size: int, received: int) -> None:
        """Wait for the slot for large bodies when the body becomes large.

        `size`: decompressed bytes so far. `received`: bytes of the whole body as received.

        Raises:
            TooManyRequestsError: like `LargeRequests.slot`.
        """
        dense = size >= DENSE_BYTES and size > DENSITY * received
        if (dense or size >= LARGE_BYTES) and not self.is_large:
            self.is_large = True
            self._slot.enter_context(self._requests.slot(self._client, received))
