"""Slots for expensive work, with a bounded queue that is fair between clients."""

import math
import threading
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum
from functools import partial

from iot_models.errors import Refusal, TooManyRequestsError

from .clients import Client

MAX_RETRY_SECONDS = 60
_NEWEST_SHARE = 0.2
"""Weight of the newest turn in the moving average of the turns' durations."""


class Priority(IntEnum):
    """The order in which waiting callers are served."""

    FIRST = 0
    SECOND = 1
    LAST = 2


@dataclass(slots=True)
class Turn:
    """The time for which a caller holds a slot."""

    was_used: bool = True
    """Whether the caller used its slot. If not, the duration of the turn does not count in the
    estimates for later turns."""


class Reservation:
    """A position in the queue, reserved for a caller that does not know yet whether it needs a
    slot.
    """

    __slots__ = ("_cancel", "was_made")

    def __init__(self, cancel: Callable[[], None] | None = None) -> None:
        self._cancel = cancel
        self.was_made = cancel is not None
        """Whether a position was reserved. False for `NO_RESERVATION`."""

    def cancel(self) -> bool:
        """Cancel the reservation. Return False if none was made, or if it was cancelled before."""
        cancel, self._cancel = self._cancel, None
        if cancel is None:
            return False
        cancel()
        return True


NO_RESERVATION = Reservation()
"""Stands for a reservation that is not needed."""


class _Waiter:
    __slots__ = ("client", "granted", "priority", "turn")

    def __init__(self, client: Client, priority: Priority) -> None:
        self.client = client
        self.priority = priority
        self.granted = False
        self.turn = threading.Lock()
        """A lock that is held until the waiter gets a slot."""
        self.turn.acquire()


_Group = OrderedDict[str, deque[_Waiter]]
"""A group (`Client.group`): the waiting callers of each client, by the client's name. The first
client is served next."""


class _FairQueue:
    """The callers that wait or have a reservation, and the order in which waiting callers are
    served.
    """

    def __init__(self, max_waiting: int, max_per_client: int) -> None:
        self._max_waiting = max_waiting
        self._max_per_client = max_per_client
        self._groups: list[OrderedDict[str, _Group]] = [OrderedDict() for _ in Priority]
        """For each priority, the groups that wait, by name. The first group is served next."""
        self._counts = [0 for _ in Priority]
        self._of_client: Counter[str] = Counter()
        self._behind: Counter[str] = Counter()
        """Number of waiting callers that connect through each untrusted proxy."""
        self._reserved: Counter[str] = Counter()
        """Number of reserved positions of each client. Waiting callers are not included."""

    def __len__(self) -> int:
        return sum(self._counts)

    def is_full(self, client: Client, priority: Priority) -> bool:
        """Return whether there is no room for a new caller of this client and priority."""
        return (
            sum(self._counts[: priority + 1]) >= self._max_waiting
            or self._of_client[client.name] >= self._max_per_client
            or 2 * self._behind[client.proxy] >= self._max_waiting
        )

    def turns_before(self, client: Client, priority: Priority) -> int:
        """Return how many turns precede the turn of a new caller of this client and priority."""
        groups = self._groups[priority]
        group: _Group = groups.get(client.group, OrderedDict())
        own = len(group.get(client.name, ())) + self._reserved[client.name]
        in_group = own + sum(
            min(len(queue), own + 1) for name, queue in group.items() if name != client.name
        )
        in_others = sum(
            min(sum(map(len, other.values())), in_group + 1)
            for name, other in groups.items()
            if name != client.group
        )
        return sum(self._counts[:priority]) + in_group + in_others

    def reserve(self, client: Client, priority: Priority) -> None:
        """Reserve a position: the caller counts as waiting."""
        self._count(client, priority, 1)
        _add(self._reserved, client.name, 1)

    def cancel(self, client: Client, priority: Priority) -> None:
        self._count(client, priority, -1)
        _add(self._reserved, client.name, -1)

    def add(self, waiter: _Waiter) -> None:
        """Add a waiting caller, behind the other callers of its client."""
        client = waiter.client
        group = self._groups[waiter.priority].setdefault(client.group, OrderedDict())
        group.setdefault(client.name, deque()).append(waiter)
        self._count(client, waiter.priority, 1)

    def remove(self, waiter: _Waiter) -> None:
        groups, client = self._groups[waiter.priority], waiter.client
        group = groups[client.group]
        group[client.name].remove(waiter)
        if not group[client.name]:
            del group[client.name]
        if not group:
            del groups[client.group]
        self._count(client, waiter.priority, -1)

    def take_next(self) -> _Waiter | None:
        """Remove the caller to serve next, and return it; None if no caller waits.

        The caller's client moves behind the other clients of its group, and the group behind the
        other groups.
        """
        groups = next(filter(None, self._groups), None)
        if groups is None:
            return None
        name, group = groups.popitem(last=False)
        client, queue = group.popitem(last=False)
        waiter = queue.popleft()
        if queue:
            group[client] = queue
        if group:
            groups[name] = group
        self._count(waiter.client, waiter.priority, -1)
        return waiter

    def _count(self, client: Client, priority: Priority, change: int) -> None:
        self._counts[priority] += change
        _add(self._of_client, client.name, change)
        if client.proxy:
            _add(self._behind, client.proxy, change)


def _add(counts: Counter[str], name: str, change: int) -> None:
    counts[name] += change
    if not counts[name]:
        del counts[name]


class FairSlots:
    """A fixed number of slots, for threads or greenlets. A caller holds a slot for one turn.

    Waiting callers are served by priority, then round-robin by group (`Client.group`), then
    round-robin by client of the group. So a client with a thousand requests delays another client's
    request of the same priority by one turn. The queue has a limit as a whole, and a limit per
    client. All clients behind one untrusted proxy together get at most half of the queue.

    A new caller is refused immediately if the queue is full, or if its client or its untrusted
    proxy has reached its limit. For a new caller, the queue is full if the callers of the same and
    of earlier priorities reach the limit; callers of later priorities do not count. With
    `estimates`, a caller is also refused immediately if its estimated wait exceeds its timeout. The
    estimate assumes turns as long as the latest turns. A caller of `slot` with `always_queue`,
    whose work is half done, skips all these checks.
    """

    def __init__(
        self,
        slots: int,
        *,
        max_waiting: int,
        max_waiting_per_client: int,
        refusal: str,
        reason: Refusal,
        estimates: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`refusal` and `reason` are the message and the reason of each `TooManyRequestsError`."""
        self._slots = self._free = slots
        self._queue = _FairQueue(max_waiting, max_waiting_per_client)
        self._message = refusal
        self._reason = reason
        self._estimates = estimates
        self._clock = clock
        self._guard = threading.Lock()
        self._turn_seconds = 0.0
        """Moving average of the durations of turns."""

    @property
    def waiting(self) -> int:
        """Number of callers that wait for a slot or have a reservation."""
        return len(self._queue)

    @contextmanager
    def slot(
        self,
        client: Client,
        *,
        seconds: float,
        priority: Priority = Priority.FIRST,
        always_queue: bool = False,
    ) -> Iterator[Turn]:
        """Wait up to `seconds` for a slot, and hold the slot during the block.

        With 0 seconds, take a slot only if one is free now.

        Raises:
            TooManyRequestsError: the queue is full, no slot became free within `seconds`, or the
                estimated wait is longer than `seconds`.
        """
        self._acquire(client, seconds, priority, always_queue=always_queue)
        began, turn = self._clock(), Turn()
        try:
            yield turn
        finally:
            if turn.was_used:
                self._note_turn(self._clock() - began)
            self._release()

    def reserve(
        self, client: Client, *, seconds: float, priority: Priority = Priority.FIRST
    ) -> Reservation:
        """Reserve a position in the queue for a caller that may need a slot.

        Until `Reservation.cancel`, the caller counts as waiting. If the queue has no room, the
        caller is refused here, before it is known whether it needs a slot. So a client can't
        conclude from a refusal that its request needs a slot.

        Raises:
            TooManyRequestsError: the queue is full, or the estimated wait is longer than `seconds`.
        """
        with self._guard:
            if not self._free or len(self._queue):
                wait = self._expected_wait(client, priority)
                if self._has_no_room(client, priority, wait, seconds):
                    raise self._refusal(wait)
            self._queue.reserve(client, priority)
        return Reservation(partial(self._cancel, client, priority))

    def _cancel(self, client: Client, priority: Priority) -> None:
        with self._guard:
            self._queue.cancel(client, priority)

    def _acquire(
        self, client: Client, seconds: float, priority: Priority, *, always_queue: bool
    ) -> None:
        with self._guard:
            if self._free:
                self._free -= 1
                return
            wait = self._expected_wait(client, priority)
            no_room = self._has_no_room(client, priority, wait, seconds)
            if seconds <= 0 or (no_room and not always_queue):
                raise self._refusal(wait)
            waiter = _Waiter(client, priority)
            self._queue.add(waiter)
        try:
            in_time = waiter.turn.acquire(timeout=seconds)
        except BaseException:  # a killed greenlet must not take its slot with it
            if not self._withdraw(waiter):
                self._release()
            raise
        if not in_time and self._withdraw(waiter):
            raise self._refusal(self._expected_wait(client, priority))

    def _has_no_room(self, client: Client, priority: Priority, wait: float, seconds: float) -> bool:
        """Return whether a new caller, with this estimated wait, is refused immediately."""
        return (self._estimates and wait > seconds) or self._queue.is_full(client, priority)

    def _expected_wait(self, client: Client, priority: Priority) -> float:
        """Estimate the seconds until a new caller of this client would get a slot."""
        turns = 1 + self._queue.turns_before(client, priority)
        return turns * self._turn_seconds / self._slots

    def _refusal(self, wait: float) -> TooManyRequestsError:
        seconds = min(max(1, math.ceil(wait)), MAX_RETRY_SECONDS)
        return TooManyRequestsError(self._message, retry_after=seconds, reason=self._reason)

    def _note_turn(self, seconds: float) -> None:
        share = _NEWEST_SHARE if self._turn_seconds else 1.0
        self._turn_seconds += share * (seconds - self._turn_seconds)

    def _withdraw(self, waiter: _Waiter) -> bool:
        """Remove a waiter from the queue. Return False if the waiter holds a slot already."""
        with self._guard:
            if waiter.granted:
                return False
            self._queue.remove(waiter)
            return True

    def _release(self) -> None:
        with self._guard:
            waiter = self._queue.take_next()
            if waiter is None:
                self._free += 1
                return
            waiter.granted = True
        waiter.turn.release()
