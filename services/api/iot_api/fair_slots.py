"""Slots for expensive work: a bounded queue that is fair between clients."""

import threading
from collections import Counter, OrderedDict, deque
from collections.abc import Iterator
from contextlib import contextmanager

from iot_models.errors import TooManyRequestsError


class _Waiter:
    __slots__ = ("granted", "proxy", "turn")

    def __init__(self, proxy: str) -> None:
        self.proxy = proxy
        self.granted = False
        self.turn = threading.Lock()
        """Held until the slot is granted."""
        self.turn.acquire()


class FairSlots:
    """A fixed number of slots, for threads or greenlets.

    Waiting callers are served round-robin by client, so a client with a thousand requests delays
    another client's request by one slot. Urgent callers go before all others. The queue is bounded
    as a whole and per client, and clients behind one untrusted proxy get half of it. A caller that
    would wait behind too many others is refused at once, unless it joins with `always_queue`, for
    work that is half done.
    """

    def __init__(self, slots: int, *, most_waiting: int, most_waiting_per_client: int) -> None:
        self._free = slots
        self._most_waiting = most_waiting
        self._most_per_client = most_waiting_per_client
        self._guard = threading.Lock()
        self._queues: dict[bool, OrderedDict[str, deque[_Waiter]]] = {
            True: OrderedDict(),
            False: OrderedDict(),
        }
        """By urgency, per client with waiting callers; the first client is served next."""
        self._waiting = 0
        self._behind: Counter[str] = Counter()
        """Callers that wait, by untrusted proxy. One client can send any number of addresses."""

    @property
    def waiting(self) -> int:
        """Number of callers that wait for a slot."""
        return self._waiting

    @contextmanager
    def slot(
        self,
        client: str,
        *,
        proxy: str = "",
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
        self._acquire(client, proxy, seconds, refusal, urgent=urgent, always_queue=always_queue)
        try:
            yield
        finally:
            self._release()

    def _acquire(
        self,
        client: str,
        proxy: str,
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
            ahead = sum(len(queues.get(client, ())) for queues in self._queues.values())
            full = self._waiting >= self._most_waiting or ahead >= self._most_per_client
            full |= 2 * self._behind[proxy] >= self._most_waiting
            if seconds <= 0 or (full and not always_queue):
                raise self._refusal(refusal)
            waiter = _Waiter(proxy)
            self._queues[urgent].setdefault(client, deque()).append(waiter)
            self._count(waiter, 1)
        try:
            in_time = waiter.turn.acquire(timeout=seconds)
        except BaseException:  # a waiting greenlet may be killed; its slot must not be lost
            if not self._withdraw(client, waiter, urgent=urgent):
                self._release()
            raise
        if not in_time and self._withdraw(client, waiter, urgent=urgent):
            raise self._refusal(refusal)

    def _refusal(self, sentence: str) -> TooManyRequestsError:
        return TooManyRequestsError(sentence, retry_after=1 + self._waiting // 4)

    def _count(self, waiter: _Waiter, change: int) -> None:
        self._waiting += change
        if waiter.proxy:
            self._behind[waiter.proxy] += change
            self._behind += Counter()  # drops what is 0

    def _withdraw(self, client: str, waiter: _Waiter, *, urgent: bool) -> bool:
        """Leave the queue; False if the slot was granted in the meantime."""
        with self._guard:
            if waiter.granted:
                return False
            queues = self._queues[urgent]
            queues[client].remove(waiter)
            self._count(waiter, -1)
            if not queues[client]:
                del queues[client]
            return True

    def _release(self) -> None:
        with self._guard:
            queues = self._queues[True] or self._queues[False]
            if not queues:
                self._free += 1
                return
            client, queue = queues.popitem(last=False)
            waiter = queue.popleft()
            if queue:
                queues[client] = queue  # behind the other clients
            self._count(waiter, -1)
            waiter.granted = True
        waiter.turn.release()
