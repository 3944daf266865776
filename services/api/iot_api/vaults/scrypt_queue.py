"""The queue for scrypt: one computation at a time in a process, known passwords first."""

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

from iot_api.limits.clients import Client
from iot_api.limits.fair_slots import FairSlots
from iot_api.limits.guess_limit import GuessLimit
from iot_api.limits.pace import Pace

WAIT_SECONDS = 10.0
"""Longest wait of a request for its scrypt."""
MAX_WAITING, MAX_WAITING_PER_CLIENT = 32, 24
"""Requests that wait for a scrypt. A scrypt takes a third of a second, so the last request of a
full queue waits for about `WAIT_SECONDS`."""
MAX_KNOWN = 50_000
"""Number of password keys remembered as known, 32 bytes each."""
_BUSY = "too many passwords wait to be opened; try again"


class ScryptQueue:
    """Lets one request at a time compute a scrypt, fairly between clients.

    Passwords that were opened before, and clients that sent no unknown password recently, go first.
    The others get a tenth of the time while the CPU is contended.
    """

    def __init__(self, guesses: GuessLimit) -> None:
        self._guesses = guesses
        self._slots = _slots()
        self._suspects = _slots()
        self._suspects_pace = Pace()
        self._known: OrderedDict[bytes, None] = OrderedDict()

    @property
    def waiting(self) -> int:
        """Number of requests that wait for a turn."""
        return self._slots.waiting + self._suspects.waiting

    @contextmanager
    def turn(self, key: bytes, client: Client, *, seconds: float = WAIT_SECONDS) -> Iterator[None]:
        """Compute one scrypt in the block, for the password with this cache key.

        Raises:
            TooManyRequestsError: no turn within `seconds`, or too many requests wait.
        """
        urgent = self.is_urgent(key, client)
        slot = partial(FairSlots.slot, client=client, seconds=seconds, refusal=_BUSY)
        with ExitStack() as slots:
            if not urgent:
                slots.enter_context(slot(self._suspects))
                slots.enter_context(self._suspects_pace.work())
            slots.enter_context(slot(self._slots, urgent=urgent))
            yield

    def is_urgent(self, key: bytes, client: Client) -> bool:
        """Return whether the request goes before those of clients that may be guessing."""
        return key in self._known or not self._guesses.suspects(client)

    def remember(self, key: bytes) -> None:
        """Remember that a password has a vault."""
        self._known[key] = None
        while len(self._known) > MAX_KNOWN:
            self._known.popitem(last=False)


def _slots() -> FairSlots:
    return FairSlots(1, max_waiting=MAX_WAITING, max_waiting_per_client=MAX_WAITING_PER_CLIENT)
