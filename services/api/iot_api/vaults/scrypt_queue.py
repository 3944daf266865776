"""The queue for scrypt: one at a time in a process, known passwords first."""

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

from iot_api.limits.clients import Client
from iot_api.limits.fair_slots import FairSlots
from iot_api.limits.guess_limit import Guesses
from iot_api.limits.pace import Pace

WAIT_SECONDS = 10.0
"""How long a request waits for its turn to compute a scrypt."""
MOST_WAITING, MOST_WAITING_PER_CLIENT = 32, 24
"""Requests that wait for a scrypt. One takes a third of a second, so the last one of a full queue
waits for about as long as it may."""
MOST_KNOWN = 50_000
"""Passwords remembered as those of vaults that exist, 32 bytes each."""
_BUSY = "too many passwords wait to be opened; try again"


class ScryptQueue:
    """Lends the one turn, fair between clients.

    Passwords that were opened before, and clients that named no unknown password lately, go first.
    The others take a tenth of the time while the processor is contended.
    """

    def __init__(self, guesses: Guesses) -> None:
        self._guesses = guesses
        self._slots = _slots()
        self._suspects = _slots()
        self._suspects_pace = Pace()
        self._known: OrderedDict[bytes, None] = OrderedDict()

    @property
    def waiting(self) -> int:
        """Requests that wait for a turn."""
        return self._slots.waiting + self._suspects.waiting

    @contextmanager
    def turn(self, key: bytes, client: Client, *, seconds: float = WAIT_SECONDS) -> Iterator[None]:
        """Compute one scrypt within, for the password of this name in the process.

        Raises:
            TooManyRequestsError: it is not this one's turn within `seconds`, or too many wait.
        """
        urgent = self.is_urgent(key, client)
        slot = partial(FairSlots.slot, client=client, seconds=seconds, refusal=_BUSY)
        with ExitStack() as held:
            if not urgent:
                held.enter_context(slot(self._suspects))
                held.enter_context(self._suspects_pace.work())
            held.enter_context(slot(self._slots, urgent=urgent))
            yield

    def is_urgent(self, key: bytes, client: Client) -> bool:
        """Whether a scrypt goes before those of clients that may be guessing."""
        return key in self._known or not self._guesses.suspects(client)

    def remember(self, key: bytes) -> None:
        """Note that a password has a vault."""
        self._known[key] = None
        while len(self._known) > MOST_KNOWN:
            self._known.popitem(last=False)


def _slots() -> FairSlots:
    return FairSlots(1, most_waiting=MOST_WAITING, most_waiting_per_client=MOST_WAITING_PER_CLIENT)
