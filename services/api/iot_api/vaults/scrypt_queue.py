"""The queue for scrypt: one computation at a time in a process, known passwords first."""

import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from iot_api.limits.clients import Client
from iot_api.limits.fair_slots import NO_RESERVATION, FairSlots, Priority, Reservation, Turn
from iot_api.limits.guess_limit import GuessLimit
from iot_api.limits.pace import Pace
from iot_api.limits.pod_lock import PodLock
from iot_models import metrics
from iot_models.errors import Refusal, TooManyRequestsError

from .tried_passwords import TriedPasswords

WAIT_SECONDS = 10.0
"""A request is refused if its estimated wait for its scrypt is longer."""
ADMITTED_SECONDS = 20.0
"""Longest wait for the first scrypt of a request that has a reservation. Longer than
`WAIT_SECONDS`: scrypts may take longer than estimated, and a refusal would count as a guess.
Shorter than the time that a process gives its requests at shutdown. Later scrypts of the request
may wait only for `WAIT_SECONDS` each: the request may have read the vault's record, and must use
the record within `password_changes.SETTLING_SECONDS`."""
MAX_WAITING, MAX_WAITING_PER_CLIENT = 32, 24
"""Maximum number of requests in a queue for scrypt: of all clients together, and of one client. A
scrypt takes a third of a second, so the last request of a full queue waits for about
`WAIT_SECONDS`."""
SUSPECTS_REST = 1.0
"""Shortest rest of a pod after a scrypt for a suspect, as a multiple of the scrypt's duration.
During the rest, the pod starts no other scrypt for a suspect. A scrypt fills the CPU caches of all
cores with its 128 MiB, and so delays other requests."""
MAX_KNOWN = 50_000
"""Maximum number of passwords that are remembered as known, with a cache key of 32 bytes each."""
_BUSY = "too many passwords wait to be hashed; try again"


class ScryptQueue:
    """Lets one request at a time compute a scrypt in this process, fairly between clients.

    Passwords whose vaults this process has opened go first, then passwords of clients that are not
    suspects, then passwords of suspects. All processes of a pod together compute only one scrypt
    for suspects at a time, and rest before the next one (`SUSPECTS_REST`).
    """

    def __init__(self, guesses: GuessLimit, tried: TriedPasswords) -> None:
        self._guesses = guesses
        self._tried = tried
        self._slots = _slots()
        self._suspects = _slots()
        self._suspects_lock = PodLock("suspects")
        self._suspects_pace = Pace(least_rest=SUSPECTS_REST, rest_until=self._suspects_lock)
        self._known: OrderedDict[bytes, None] = OrderedDict()

    @property
    def waiting(self) -> int:
        """Number of requests that wait for a turn."""
        return self._slots.waiting + self._suspects.waiting

    @contextmanager
    def turn(
        self,
        key: bytes,
        client: Client,
        *,
        seconds: float = WAIT_SECONDS,
        reservation: Reservation = NO_RESERVATION,
    ) -> Iterator[None]:
        """Wait for a turn, in which the `with` block may compute one scrypt.

        `key` is the password's cache key. `reservation` is cancelled before the request waits;
        otherwise the request would count twice. A request that had a reservation may wait for
        `ADMITTED_SECONDS` instead of `seconds`.

        Raises:
            TooManyRequestsError: the wait took too long, or too many requests wait; or the client
                has reached the guess limit meanwhile.
        """
        with ExitStack() as held:
            with metrics.gauge("iot_scrypts_waiting").track_inprogress():
                if reservation.cancel():
                    seconds = ADMITTED_SECONDS
                wait = _Wait(client, seconds, held, is_admitted=reservation.was_made)
                queue = self._take_turn(wait, key)
            metrics.counter("iot_scrypts_total").labels(queue).inc()
            with metrics.gauge("iot_scrypts_running").track_inprogress():
                yield

    def reserve(self, client: Client, key: bytes) -> Reservation:
        """Make a reservation for a request that may need a scrypt.

        `key` is the password's cache key. Call this before you look in the cache for the open
        vault. Otherwise only requests for vaults that are not open would be refused. A client that
        fills the queue could then tell from each answer whether a vault is open.

        A client that has used the vault in this process before learns nothing new. It is not
        refused here, and gets `NO_RESERVATION`. Without a guess limit, all clients get it.

        Raises:
            TooManyRequestsError: the queue has no room for an unknown password of this client.
        """
        if not self._guesses.is_on or self._tried.has_found(client, [key]):
            return NO_RESERVATION
        if self._guesses.suspects(client):
            return self._suspects.reserve(client, seconds=WAIT_SECONDS)
        return self._slots.reserve(client, seconds=WAIT_SECONDS, priority=Priority.SECOND)

    def _take_turn(self, wait: "_Wait", key: bytes) -> str:
        """Wait for a turn. Return the name of the queue that gave the turn, for the metrics.

        The name is "known" for passwords whose vaults this process has opened, "suspects" for the
        other passwords of suspects, and "first" for all other passwords.
        """
        if key in self._known:
            wait.enter(self._slots)
            return "known"
        since = time.monotonic()
        queue = self._take_as_unknown(wait)
        self._guesses.check_waiting(wait.client, since)
        return queue

    def _take_as_unknown(self, wait: "_Wait") -> str:
        if not self._guesses.suspects(wait.client):
            turn = wait.enter(self._slots, Priority.SECOND)
            if not self._guesses.suspects(wait.client):
                return "first"
            turn.was_used = False  # another request showed the client to be a suspect
            wait.held.close()
            if wait.is_admitted:
                # The suspects' queue might refuse the request, and the refusal count as a guess.
                wait.enter(self._slots, Priority.LAST)
                return "suspects"
        self._take_as_suspect(wait)
        return "suspects"

    def _take_as_suspect(self, wait: "_Wait") -> None:
        wait.enter(self._suspects)
        is_held = wait.held.enter_context(self._suspects_lock.hold(wait.left))
        if not is_held or self._suspects_pace.rest > wait.left:
            retry_after = 1 + round(self._suspects_pace.rest)
            raise TooManyRequestsError(_BUSY, retry_after=retry_after, reason=Refusal.OPENING_QUEUE)
        wait.held.enter_context(self._suspects_pace.work())
        wait.enter(self._slots, Priority.LAST)

    def is_urgent(self, key: bytes, client: Client) -> bool:
        """Return whether a request for a password goes before the requests of suspects.

        `key` is the password's cache key.
        """
        return key in self._known or not self._guesses.suspects(client)

    def remember(self, key: bytes) -> None:
        """Remember that a password has a vault: its next scrypt goes before unknown passwords."""
        self._known[key] = None
        while len(self._known) > MAX_KNOWN:
            self._known.popitem(last=False)


class _Wait:
    def __init__(
        self, client: Client, seconds: float, held: ExitStack, *, is_admitted: bool
    ) -> None:
        """The request waits up to `seconds` in total. `held` releases the slots of the request
        after its turn.
        """
        self.client = client
        self.held = held
        self.is_admitted = is_admitted
        """Whether the request had a reservation: then a full queue does not refuse it."""
        self._end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        return max(0.0, self._end - time.monotonic())

    def enter(self, slots: FairSlots, priority: Priority = Priority.FIRST) -> Turn:
        slot = slots.slot(
            self.client, seconds=self.left, priority=priority, always_queue=self.is_admitted
        )
        return self.held.enter_context(slot)


def _slots() -> FairSlots:
    return FairSlots(
        1,
        max_waiting=MAX_WAITING,
        max_waiting_per_client=MAX_WAITING_PER_CLIENT,
        refusal=_BUSY,
        reason=Refusal.OPENING_QUEUE,
        estimates=True,
    )
