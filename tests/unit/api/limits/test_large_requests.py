"""Large bodies are processed one at a time and leave most of the time to small requests."""

import time
from contextlib import ExitStack

import pytest

from iot_api.limits.clients import Client
from iot_api.limits.large_requests import (
    DENSE_BYTES,
    DENSITY,
    LARGE_BYTES,
    WAIT_SECONDS,
    LargeBodyMemory,
    LargeRequests,
)
from iot_api.limits.memory_budget import BODY_FACTOR
from iot_api.limits.pace import CONTENDED_REST, MAX_REST_SECONDS, Pace, seconds_waited_for_cpu
from iot_models.errors import TooManyRequestsError
from support.clock import Clock

BUDGET = 64 * LARGE_BYTES
LARGEST = BUDGET // (2 * BODY_FACTOR)
"""Two of these bodies take the whole budget, as the largest permitted ones may."""


class SleepClock(Clock):
    """A clock that `sleep` advances too."""

    slept = 0.0
    waited = 0.0

    def waiting(self) -> float:
        return self.waited

    def sleep(self, seconds: float) -> None:
        self.slept += seconds
        self.now += seconds


@pytest.fixture
def clock() -> SleepClock:
    return SleepClock()


@pytest.fixture
def requests(clock: SleepClock) -> LargeRequests:
    return LargeRequests(BUDGET, Pace(clock, clock.sleep, clock.waiting))


def parse_large(
    requests: LargeRequests, clock: SleepClock, seconds: float, others: int = 0
) -> None:
    """Parse a large body while other requests are served."""
    with requests.turn(Client("client")) as turn:
        turn.grow(LARGE_BYTES, LARGE_BYTES)
        clock.now += seconds
        requests.small += others


def test_large_bodies_do_not_rest_without_other_requests(
    requests: LargeRequests, clock: SleepClock
) -> None:
    for _ in range(3):
        parse_large(requests, clock, 0.2)
    assert clock.slept == 0


def test_large_bodies_get_a_tenth_of_the_time_beside_small_requests(
    requests: LargeRequests, clock: SleepClock
) -> None:
    began = clock.now
    for _ in range(10):
        parse_large(requests, clock, 0.2, others=1)
    assert clock.slept == pytest.approx(9 * 0.2 * CONTENDED_REST)
    assert 10 * 0.2 / (clock.now - began) == pytest.approx(1 / (1 + CONTENDED_REST), rel=0.1)


def test_large_bodies_rest_while_the_cpu_is_contended(
    requests: LargeRequests, clock: SleepClock
) -> None:
    """Another worker process on the same CPU serves devices."""
    with requests.turn(Client("client")) as turn:
        turn.grow(LARGE_BYTES, LARGE_BYTES)
        clock.now += 0.2
        clock.waited += 0.02
    parse_large(requests, clock, 0.2)
    assert clock.slept == pytest.approx(0.2 * CONTENDED_REST)


def test_the_time_waited_for_the_cpu_is_measured() -> None:
    assert 0 <= seconds_waited_for_cpu() < 1e6


def test_a_rest_is_bounded(requests: LargeRequests, clock: SleepClock) -> None:
    parse_large(requests, clock, 30, others=1)
    parse_large(requests, clock, 0)
    assert clock.slept == pytest.approx(MAX_REST_SECONDS)


def test_a_small_body_is_counted_and_never_waits(
    requests: LargeRequests, clock: SleepClock
) -> None:
    with requests.turn(Client("a")) as large:
        large.grow(10, 10)
        large.grow(LARGE_BYTES, LARGE_BYTES)
        large.grow(2 * LARGE_BYTES, LARGE_BYTES)
        with requests.turn(Client("b")) as small:
            small.grow(LARGE_BYTES - 1, LARGE_BYTES // DENSITY)
    assert requests.small == 1
    assert clock.slept == 0


def test_a_dense_body_is_large(requests: LargeRequests) -> None:
    with requests.turn(Client("client")) as turn:
        turn.grow(DENSE_BYTES - 1, 1)
        turn.grow(DENSE_BYTES, DENSE_BYTES // DENSITY)
        assert not turn.is_large
        turn.grow(DENSE_BYTES, DENSE_BYTES // DENSITY - 1)
        assert turn.is_large


def test_small_requests_between_two_large_ones_are_counted(
    requests: LargeRequests, clock: SleepClock
) -> None:
    for _ in range(3):
        requests.small += 1
        parse_large(requests, clock, 0.2)
    assert clock.slept == pytest.approx(2 * 0.2 * CONTENDED_REST)


def test_waiting_bodies_leave_memory_for_others() -> None:
    """Half of the budget is the limit of a group, three quarters that of all large bodies."""
    memory = LargeBodyMemory(BUDGET)

    def hold(group: str, size: int) -> None:
        held.enter_context(memory.hold(group, size * BODY_FACTOR))

    with ExitStack() as held:
        hold("greedy", LARGEST)
        with pytest.raises(TooManyRequestsError):
            hold("greedy", 1)
        hold("another", LARGEST // 2)
        with pytest.raises(TooManyRequestsError):
            hold("a third", LARGE_BYTES)
    with memory.hold("alone", BUDGET):  # nothing is left of the others
        pass


def test_a_single_body_of_any_size_is_accepted(requests: LargeRequests) -> None:
    with requests.turn(Client("alone")) as turn:
        turn.grow(BUDGET, BUDGET)


def test_a_large_body_takes_memory_until_its_turn_ends(requests: LargeRequests) -> None:
    """A body for which there is no memory does not wait for the slot."""
    began = time.monotonic()
    with requests.turn(Client("one")) as turn:
        turn.grow(BUDGET, BUDGET)
        with pytest.raises(TooManyRequestsError), requests.turn(Client("another")) as other:
            other.grow(LARGE_BYTES, LARGE_BYTES)
    assert time.monotonic() - began < WAIT_SECONDS
    with requests.turn(Client("another")) as other:
        other.grow(LARGE_BYTES, LARGE_BYTES)
