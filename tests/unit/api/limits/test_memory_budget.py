"""The memory budget decides which request is dropped or refused."""

from dataclasses import dataclass

import pytest

from iot_api.limits.memory_budget import (
    CHARGE,
    EXEMPT_BYTES,
    MemoryBudget,
    OverBudgetError,
    charge_request,
)
from iot_models.errors import UnavailableError
from support.clock import Clock

MIB = 2**20


@dataclass(eq=False)
class Request:
    """A holder of memory."""

    droppable: bool = True
    dropped: bool = False

    def drop(self) -> None:
        self.dropped = True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of the budget."""
    made = Clock(1000.0)
    monkeypatch.setattr("iot_api.limits.memory_budget.time", made)
    return made


@pytest.fixture
def budget(clock: Clock) -> MemoryBudget:  # noqa: ARG001
    """A budget of 10 MiB."""
    return MemoryBudget(10 * MIB)


def test_charges_are_refunded_and_released(budget: MemoryBudget) -> None:
    first, second = Request(), Request()
    budget.charge(first, 3)
    budget.charge(first, 4)
    budget.charge(second, 5)
    assert budget.used == 12
    budget.refund(first, 2)
    assert budget.used == 10
    for _ in range(2):
        budget.release(first)
        budget.refund(first, 3)
        assert budget.used == 5


def test_a_full_budget_refuses(budget: MemoryBudget) -> None:
    held = Request()
    budget.charge(held, 10 * MIB)
    with pytest.raises(UnavailableError):
        budget.charge(Request(), 1)
    assert not held.dropped
    assert budget.used == 10 * MIB
    budget.release(held)
    budget.charge(Request(), 10 * MIB)


def test_a_slow_body_is_dropped_for_a_fast_one(budget: MemoryBudget, clock: Clock) -> None:
    slow, quick = Request(), Request()
    budget.charge(slow, 10 * MIB)
    clock.now += 60
    budget.charge(quick, MIB)
    assert slow.dropped
    assert budget.used == MIB


def test_no_body_is_dropped_for_a_request_that_is_too_large_for_the_budget(
    budget: MemoryBudget, clock: Clock
) -> None:
    slow, large = Request(), Request()
    budget.charge(slow, MIB)
    budget.charge(large, 9 * MIB)
    clock.now += 60
    with pytest.raises(OverBudgetError):
        budget.charge(large, 2 * MIB)
    assert not slow.dropped


def test_the_body_with_most_bytes_times_seconds_is_dropped(
    budget: MemoryBudget, clock: Clock
) -> None:
    large, old, small = Request(), Request(), Request()
    budget.charge(old, 2 * MIB)
    clock.now += 10
    budget.charge(large, 7 * MIB)
    budget.charge(small, MIB)
    clock.now += 10
    budget.charge(Request(), MIB)
    assert (large.dropped, old.dropped, small.dropped) == (True, False, False)


def test_a_slow_body_does_not_displace_a_faster_one(budget: MemoryBudget, clock: Clock) -> None:
    worst, better = Request(), Request()
    budget.charge(worst, 8 * MIB)
    budget.charge(better, 2 * MIB)
    clock.now += 60
    with pytest.raises(UnavailableError):
        budget.charge(worst, 1)
    assert not better.dropped


@pytest.mark.parametrize("seconds", [0.5, 2.0])
def test_fast_bodies_are_not_dropped(budget: MemoryBudget, clock: Clock, seconds: float) -> None:
    quick = Request()
    budget.charge(quick, 10 * MIB)
    clock.now += seconds
    with pytest.raises(UnavailableError):
        budget.charge(Request(), 1)
    assert not quick.dropped


def test_a_request_that_is_being_processed_is_not_dropped(
    budget: MemoryBudget, clock: Clock
) -> None:
    computed = Request(droppable=False)
    budget.charge(computed, 10 * MIB)
    clock.now += 60
    with pytest.raises(UnavailableError):
        budget.charge(Request(), 1)
    assert not computed.dropped


def test_small_charges_are_exempt() -> None:
    charged: list[int] = []
    for count in (EXEMPT_BYTES, EXEMPT_BYTES + 1):
        charge_request({CHARGE: charged.append}, count)
        charge_request({}, count)  # another WSGI server
    assert charged == [EXEMPT_BYTES + 1]
