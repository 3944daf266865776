"""Slots are bounded and fair between clients."""

import threading

import pytest

from iot_api.limits.clients import Client
from iot_api.limits.fair_slots import FairSlots
from iot_models.errors import TooManyRequestsError
from support.waiting import wait_until


class _Callers:
    """Threads that take the one slot and record the order."""

    def __init__(self, slots: FairSlots) -> None:
        self._slots = slots
        self.order: list[str] = []
        self._threads: list[threading.Thread] = []

    def start(self, client: str, name: str, *, urgent: bool = True, proxy: str = "") -> None:
        before = self._slots.waiting
        thread = threading.Thread(target=self._run, args=(client, name, urgent, proxy))
        thread.start()
        self._threads.append(thread)
        wait_until(lambda: self._slots.waiting == before + 1, what="a waiting caller")

    def _run(self, client: str, name: str, urgent: bool, proxy: str) -> None:
        with self._slots.slot(Client(client, proxy), seconds=30, refusal="busy", urgent=urgent):
            self.order.append(name)

    def join(self) -> None:
        for thread in self._threads:
            thread.join()


def test_clients_are_served_round_robin() -> None:
    slots = FairSlots(1, max_waiting=100, max_waiting_per_client=100)
    callers = _Callers(slots)
    with slots.slot(Client("greedy"), seconds=1, refusal="busy"):
        for number in range(3):
            callers.start("greedy", f"greedy {number}")
        callers.start("modest", "modest")
    callers.join()
    assert callers.order == ["greedy 0", "modest", "greedy 1", "greedy 2"]


def test_forged_addresses_are_served_as_one_client() -> None:
    slots = FairSlots(1, max_waiting=100, max_waiting_per_client=100)
    callers = _Callers(slots)
    with slots.slot(Client("a"), seconds=1, refusal="busy"):
        for number in range(3):
            callers.start(f"p for {number}", f"made up {number}", proxy="p")
        callers.start("modest", "modest")
    callers.join()
    assert callers.order == ["made up 0", "modest", "made up 1", "made up 2"]


def test_urgent_callers_go_first() -> None:
    slots = FairSlots(1, max_waiting=100, max_waiting_per_client=100)
    callers = _Callers(slots)
    with slots.slot(Client("a"), seconds=1, refusal="busy"):
        callers.start("a", "a, later", urgent=False)
        callers.start("b", "b, later", urgent=False)
        callers.start("b", "b, urgent")
    callers.join()
    assert callers.order == ["b, urgent", "a, later", "b, later"]


def test_a_full_queue_refuses_at_once() -> None:
    slots = FairSlots(1, max_waiting=2, max_waiting_per_client=1)
    callers = _Callers(slots)
    with slots.slot(Client("a"), seconds=1, refusal="busy"):
        callers.start("a", "a")
        with pytest.raises(TooManyRequestsError, match="busy"):
            slots._acquire(Client("a"), 30, "busy", urgent=True, always_queue=False)  # noqa: SLF001 - refused, so nothing to release
        callers.start("b", "b")
        with pytest.raises(TooManyRequestsError, match="busy"):
            slots._acquire(Client("c"), 30, "busy", urgent=True, always_queue=False)  # noqa: SLF001 - likewise
    callers.join()
    assert callers.order == ["a", "b"]


def test_the_slot_of_a_caller_that_gives_up_goes_to_the_next() -> None:
    slots = FairSlots(1, max_waiting=9, max_waiting_per_client=9)
    callers = _Callers(slots)
    with slots.slot(Client("a"), seconds=1, refusal="busy"):
        with (
            pytest.raises(TooManyRequestsError, match="busy"),
            slots.slot(Client("b"), seconds=0.01, refusal="busy"),
        ):
            raise AssertionError("the slot was taken twice")
        assert slots.waiting == 0
        callers.start("b", "b")
    callers.join()
    assert callers.order == ["b"]
    with slots.slot(Client("a"), seconds=0, refusal="busy"):
        assert slots.waiting == 0


def test_always_queue_joins_a_full_queue() -> None:
    slots = FairSlots(1, max_waiting=0, max_waiting_per_client=0)
    with slots.slot(Client("a"), seconds=1, refusal="busy"):
        with pytest.raises(TooManyRequestsError, match="busy"):
            slots._acquire(Client("b"), 30, "busy", urgent=True, always_queue=False)  # noqa: SLF001 - refused, so nothing to release
        with (
            pytest.raises(TooManyRequestsError, match="busy"),
            slots.slot(Client("b"), seconds=0.01, refusal="busy", always_queue=True),
        ):
            pass
        assert slots.waiting == 0


def test_zero_seconds_takes_only_a_free_slot() -> None:
    slots = FairSlots(1, max_waiting=9, max_waiting_per_client=9)
    with (
        slots.slot(Client("a"), seconds=0, refusal="busy"),
        pytest.raises(TooManyRequestsError, match="busy"),
        slots.slot(Client("b"), seconds=0, refusal="busy", always_queue=True),
    ):
        pass


def test_forged_addresses_get_half_of_the_queue() -> None:
    slots = FairSlots(1, max_waiting=4, max_waiting_per_client=2)
    callers = _Callers(slots)
    with slots.slot(Client("a"), seconds=1, refusal="busy"):
        for number in range(2):
            callers.start(f"p for {number}", f"{number}", proxy="p")
        with pytest.raises(TooManyRequestsError, match="busy"):
            slots._acquire(Client("p for 2", "p"), 30, "busy", urgent=True, always_queue=False)  # noqa: SLF001 - refused, so nothing to release
        callers.start("b", "b")
    callers.join()
    assert callers.order == ["0", "b", "1"]
    with slots.slot(Client("a"), seconds=1, refusal="busy"):
        callers.start("p for 3", "3", proxy="p")
    callers.join()
