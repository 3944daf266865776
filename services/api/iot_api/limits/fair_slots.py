"""Slots for expensive work, with a bounded queue that is fair between clients."""

import threading
from collections import Counter, OrderedDict, deque
from collections.abc import Iterator
from contextlib import contextmanager

from iot_models.errors import TooManyRequestsError

from .clients import Client


class _Waiter:
    __slots__ = ("client", "granted", "turn")

    def __init__(self, client: Client) -> None:
        self.client = client
        self.granted = False
        self.turn = threading.Lock()
        """Held until the slot is granted."""
        self.turn.acquire()


class FairSlots:
    """A fixed number of slots, for threads or greenlets.

    Waiting callers are served round-robin by sender, so a sender with a thousand requests delays
    another sender's request by one slot. All clients behind one untrusted proxy are one sender,
    because a client can invent any number of addresses. Urgent callers go before all others. The
    queue is bounded, as a whole and per client; clients behind one untrusted proxy get half of it.
    A caller is refused at once if the queue is full. `always_queue` skips that check, for work that
    is half done.
    """

    def __init__(self, slots: int, *, max_waiting: int, max_waiting_per_client: int) -> None:
        self._free = slots
        self._max_waiting = max_waiting
        self._max_per_client = max_waiting_per_client
        self._guard = threading.Lock()
        self._queues: dict[bool, OrderedDict[str, deque[_Waiter]]] = {
            True: OrderedDict(),
            False: OrderedDict(),
        }
        """By urgency, the waiting callers of each sender. The first sender is served next."""
        self._waiting = 0
        self._of_client: Counter[str] = Counter()
        self._behind: Counter[str] = Counter()
        """Number of waiting callers behind each untrusted proxy."""

    @property
    def waiting(self) -> int:
        """Number of callers that wait for a slot."""
        return self._waiting

    @contextmanager
    def slot(
        self,
        client: Client,
        *,
        seconds: float,
        refusal: str,
        urgent: bool = True,
        always_queue: bool = False,
    ) -> Iterator[None]:
        """Hold a slot for the duration of the block; 0 seconds: only if one is free now.

        Raises:
            TooManyRequestsError: `refusal`, because the queue is full or no slot was free within
                `seconds`.
        """
        self._acquire(client, seconds, refusal, urgent=urgent, always_queue=always_queue)
        try:
            yield
        finally:
            self._release()

    def _acquire(
        self,
        client: Client,
        seconds: float,
        refusal: str,
        *,
        urgent: bool,
        always_queue: bool,
    ) -> None:
        with self._guard:
            if self._free:
                self._free -= 1
                return
            if seconds <= 0 or (not always_queue and self._full_for(client)):
                raise self._refusal(refusal)
            waiter = _Waiter(client)
            self._queues[urgent].setdefault(client.sender, deque()).append(waiter)
            self._count(client, 1)
        try:
            in_time = waiter.turn.acquire(timeout=seconds)
        except BaseException:  # a killed greenlet must not take its slot with it
            if not self._withdraw(waiter, urgent=urgent):
                self._release()
            raise
        if not in_time and self._withdraw(waiter, urgent=urgent):
            raise self._refusal(refusal)

    def _full_for(self, client: Client) -> bool:
        return (
            self._waiting >= self._max_waiting
            or self._of_client[client.name] >= self._max_per_client
            or 2 * self._behind[client.proxy] >= self._max_waiting
        )

    def _refusal(self, sentence: str) -> TooManyRequestsError:
        return TooManyRequestsError(sentence, retry_after=1 + self._waiting // 4)

    def _count(self, client: Client, change: int) -> None:
        self._waiting += change
        _add(self._of_client, client.name, change)
        if client.proxy:
            _add(self._behind, client.proxy, change)

    def _withdraw(self, waiter: _Waiter, *, urgent: bool) -> bool:
        """Leave the queue; return False if the slot was granted in the meantime."""
        with self._guard:
            if waiter.granted:
                return False
            queues, sender = self._queues[urgent], waiter.client.sender
            queues[sender].remove(waiter)
            self._count(waiter.client, -1)
            if not queues[sender]:
                del queues[sender]
            return True

    def _release(self) -> None:
        with self._guard:
            queues = self._queues[True] or self._queues[False]
            if not queues:
                self._free += 1
                return
            sender, queue = queues.popitem(last=False)
            waiter = queue.popleft()
            if queue:
                queues[sender] = queue  # behind the other senders
            self._count(waiter.client, -1)
            waiter.granted = True
        waiter.turn.release()


def _add(counts: Counter[str], name: str, change: int) -> None:
    counts[name] += change
    if not counts[name]:
        del counts[name]
