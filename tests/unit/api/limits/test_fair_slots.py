"""Slots are bounded and fair between clients."""

import threading
import time

import pytest

from iot_api.limits.clients import Client
from iot_api.limits.fair_slots import FairSlots, Priority
from iot_models.errors import Refusal, TooManyRequestsError
from support.clock import Clock
from support.waiting import wait_until


def _slots(
    *, max_waiting: int = 100, max_waiting_per_client: int = 100, clock: Clock | None = None
) -> FairSlots:
    """Return one slot. With a clock, it estimates waits."""
    return FairSlots(
        1,
        max_waiting=max_waiting,
        max_waiting_per_client=max_waiting_per_client,
        refusal="busy",
        reason=Refusal.OPENING_QUEUE,
        estimates=clock is not None,
        clock=clock or time.monotonic,
    )


def _refused(
    slots: FairSlots, client: Client, seconds: float = 30, priority: Priority = Priority.FIRST
) -> TooManyRequestsError:
    """Return the error with which a caller is refused."""
    with (
        pytest.raises(TooManyRequestsError, match="busy") as caught,
        slots.slot(client, seconds=seconds, priority=priority),
    ):
        raise AssertionError("the caller got a slot")
    return caught.value


class _Callers:
    """Threads that take the one slot and record the order."""

    def __init__(self, slots: FairSlots) -> None:
        self._slots = slots
        self.order: list[str] = []
        self._threads: list[threading.Thread] = []

    def start(
        self,
        client: str,
        name: str,
        *,
        priority: Priority = Priority.FIRST,
        proxy: str = "",
        token: str = "",
    ) -> None:
        before = self._slots.waiting
        who = Client(client, proxy, token)
        thread = threading.Thread(target=self._run, args=(who, name, priority))
        thread.start()
        self._threads.append(thread)
        wait_until(lambda: self._slots.waiting == before + 1, what="a waiting caller")

    def _run(self, client: Client, name: str, priority: Priority) -> None:
        with self._slots.slot(client, seconds=30, priority=priority):
            self.order.append(name)

    def join(self) -> None:
        for thread in self._threads:
            thread.join()


def test_clients_are_served_round_robin() -> None:
    slots = _slots(max_waiting=100, max_waiting_per_client=100)
    callers = _Callers(slots)
    with slots.slot(Client("greedy"), seconds=1):
        for number in range(3):
            callers.start("greedy", f"greedy {number}")
        callers.start("modest", "modest")
    callers.join()
    assert callers.order == ["greedy 0", "modest", "greedy 1", "greedy 2"]


def test_forged_addresses_are_served_as_one_client() -> None:
    slots = _slots(max_waiting=100, max_waiting_per_client=100)
    callers = _Callers(slots)
    with slots.slot(Client("a"), seconds=1):
        for number in range(3):
            callers.start(f"p for {number}", f"made up {number}", proxy="p")
        callers.start("modest", "modest")
    callers.join()
    assert callers.order == ["made up 0", "modest", "made up 1", "made up 2"]


def test_urgent_callers_go_first() -> None:
    slots = _slots(max_waiting=100, max_waiting_per_client=100)
    callers = _Callers(slots)
    with slots.slot(Client("a"), seconds=1):
        callers.start("a", "a, later", priority=Priority.SECOND)
        callers.start("b", "b, later", priority=Priority.SECOND)
        callers.start("b", "b, urgent")
    callers.join()
    assert callers.order == ["b, urgent", "a, later", "b, later"]


def test_a_full_queue_refuses_at_once() -> None:
    slots = _slots(max_waiting=2, max_waiting_per_client=1)
    callers = _Callers(slots)
    with slots.slot(Client("a"), seconds=1):
        callers.start("a", "a")
        _refused(slots, Client("a"))
        callers.start("b", "b")
        _refused(slots, Client("c"))
    callers.join()
    assert callers.order == ["a", "b"]


def test_the_slot_of_a_caller_that_gives_up_goes_to_the_next() -> None:
    slots = _slots(max_waiting=9, max_waiting_per_client=9)
    callers = _Callers(slots)
    with slots.slot(Client("a"), seconds=1):
        _refused(slots, Client("b"), 0.01)
        assert slots.waiting == 0
        callers.start("b", "b")
    callers.join()
    assert callers.order == ["b"]
    with slots.slot(Client("a"), seconds=0):
        assert slots.waiting == 0


def test_always_queue_joins_a_full_queue() -> None:
    slots = _slots(max_waiting=0, max_waiting_per_client=0)
    with slots.slot(Client("a"), seconds=1):
        _refused(slots, Client("b"))
        with (
            pytest.raises(TooManyRequestsError, match="busy"),
            slots.slot(Client("b"), seconds=0.01, always_queue=True),
        ):
            pass
        assert slots.waiting == 0


def test_zero_seconds_takes_only_a_free_slot() -> None:
    slots = _slots(max_waiting=9, max_waiting_per_client=9)
    with (
        slots.slot(Client("a"), seconds=0),
        pytest.raises(TooManyRequestsError, match="busy"),
        slots.slot(Client("b"), seconds=0, always_queue=True),
    ):
        pass


def test_forged_addresses_get_half_of_the_queue() -> None:
    slots = _slots(max_waiting=4, max_waiting_per_client=2)
    callers = _Callers(slots)
    with slots.slot(Client("a"), seconds=1):
        for number in range(2):
            callers.start(f"p for {number}", f"{number}", proxy="p")
        _refused(slots, Client("p for 2", "p"))
        callers.start("b", "b")
    callers.join()
    assert callers.order == ["0", "b", "1"]
    with slots.slot(Client("a"), seconds=1):
        callers.start("p for 3", "3", proxy="p")
    callers.join()


def test_tokens_take_turns_and_so_do_the_addresses_of_a_token() -> None:
    slots = _slots()
    callers = _Callers(slots)
    with slots.slot(Client("a"), seconds=1):
        for number in range(3):
            callers.start("fleet@1", f"fleet 1, {number}", token="fleet")
        callers.start("fleet@2", "fleet 2", token="fleet")
        callers.start("lab@3", "lab", token="lab")
    callers.join()
    assert callers.order == ["fleet 1, 0", "lab", "fleet 2", "fleet 1, 1", "fleet 1, 2"]


def test_later_priorities_take_no_place_from_earlier_ones() -> None:
    slots = _slots(max_waiting=1)
    callers = _Callers(slots)
    with slots.slot(Client("a"), seconds=1):
        callers.start("b", "later", priority=Priority.SECOND)
        callers.start("c", "sooner")
        _refused(slots, Client("d"), priority=Priority.SECOND)
    callers.join()
    assert callers.order == ["sooner", "later"]


def test_a_turn_that_comes_too_late_is_refused_at_once() -> None:
    """The estimate counts the turns of others before it, not those of a greedy client."""
    clock = Clock()
    slots = _slots(clock=clock)
    with slots.slot(Client("a"), seconds=1):
        clock.now += 4  # a turn takes four seconds
    callers = _Callers(slots)

    def refused(client: str) -> int:
        return _refused(slots, Client(client), 10).retry_after

    with slots.slot(Client("a"), seconds=1):
        callers.start("greedy", "greedy 1")
        callers.start("greedy", "greedy 2")
        callers.start("greedy", "greedy 3")
        assert refused("greedy") == 16
        callers.start("b", "b")  # its turn is the second
        assert refused("c") == 12  # the third: after 12 seconds
    callers.join()
    assert callers.order == ["greedy 1", "b", "greedy 2", "greedy 3"]


def test_a_turn_that_was_not_used_does_not_count_for_the_estimate() -> None:
    clock = Clock()
    slots = _slots(clock=clock)
    for used in (True, False):
        with slots.slot(Client("a"), seconds=1) as turn:
            clock.now += 4 if used else 0
            turn.was_used = used
    with slots.slot(Client("a"), seconds=1):
        assert _refused(slots, Client("b"), 3).retry_after == 4


def test_a_reservation_counts_as_waiting_until_it_is_cancelled() -> None:
    slots = _slots(max_waiting_per_client=2)
    one, other = Client("one"), Client("other")
    reservations = [slots.reserve(one, seconds=30) for _ in range(2)]
    for _ in range(2):
        with pytest.raises(TooManyRequestsError):
            slots.reserve(one, seconds=30)
    slots.reserve(other, seconds=30).cancel()
    for _ in range(2):  # the second time it has no effect
        reservations[0].cancel()
    assert slots.waiting == 1
    with slots.slot(one, seconds=30):
        assert slots.waiting == 1
    reservations[1].cancel()
    assert slots.waiting == 0


def test_reservations_are_refused_as_slots_are() -> None:
    clock = Clock()
    slots = _slots(clock=clock)
    client = Client("one")
    with slots.slot(client, seconds=30):
        clock.now += 20
    with slots.slot(client, seconds=30):
        with pytest.raises(TooManyRequestsError) as refused:
            slots.reserve(client, seconds=10)
        assert refused.value.retry_after == 20
        reservation = slots.reserve(client, seconds=30)
        with pytest.raises(TooManyRequestsError) as refused:
            slots.reserve(client, seconds=30)
        assert refused.value.retry_after == 40, "a reservation counts like a waiting caller"
        reservation.cancel()
    slots.reserve(client, seconds=10).cancel()
