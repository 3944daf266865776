"""The more requests of a client fail, the later it gets its errors."""

from typing import Any

import pytest

from iot_api.http.refusal_pace import (
    DELAY,
    LIMITED_PER_SECOND,
    MAX_DELAY_SECONDS,
    PER_SECOND,
    RefusalPace,
)
from support.clock import Clock


@pytest.fixture
def clock() -> Clock:
    """The clock."""
    return Clock()


@pytest.fixture
def pace(clock: Clock) -> RefusalPace:
    """A pace without errors so far."""
    return RefusalPace(0, clock)


def environ(address: str = "192.0.2.1") -> dict[str, Any]:
    return {"REMOTE_ADDR": address}


def test_a_burst_is_answered_at_once(pace: RefusalPace) -> None:
    assert [pace.delay("a") for _ in range(PER_SECOND)] == [0.0] * PER_SECOND
    assert pace.delay("a") > 0.0
    assert pace.delay("b") == 0.0


def test_later_errors_are_answered_at_the_rate(pace: RefusalPace, clock: Clock) -> None:
    delays = [pace.delay("a") for _ in range(3 * PER_SECOND)]
    assert delays[-1] == pytest.approx(2.0)
    clock.now += 3.0
    assert pace.delay("a") == 0.0


def test_answers_429_are_slower_than_other_errors(pace: RefusalPace) -> None:
    """After a second's worth of them."""
    for status, rate in ((404, PER_SECOND), (429, LIMITED_PER_SECOND)):
        address = f"192.0.2.{status % 256}"
        delays = []
        for _ in range(2 * rate):
            request = environ(address)
            pace.hold_back(request, status)
            delays.append(request.get(DELAY, 0.0))
        assert delays[:rate] == [0.0] * rate
        assert delays[-1] == pytest.approx(1.0)


def test_no_delay_is_longer_than_the_maximum(pace: RefusalPace, clock: Clock) -> None:
    delays = [pace.delay("a") for _ in range(100 * PER_SECOND)]
    assert max(delays) == MAX_DELAY_SECONDS
    clock.now += MAX_DELAY_SECONDS + 1
    assert pace.delay("a") == 0.0


def test_a_client_that_waits_between_errors_is_never_delayed(
    pace: RefusalPace, clock: Clock
) -> None:
    for _ in range(1000):
        assert pace.delay("a") == 0.0
        clock.now += 1.0


@pytest.mark.parametrize(
    ("status", "counts"), [(201, False), (429, True), (400, True), (503, False)]
)
def test_errors_of_the_client_count(pace: RefusalPace, status: int, counts: bool) -> None:
    """A client can't help 5xx."""
    for _ in range(PER_SECOND):
        pace.hold_back(environ(), status)
    last = environ()
    pace.hold_back(last, status)
    assert (DELAY in last) == counts
    other = environ("192.0.2.2")
    pace.hold_back(other, status)
    assert DELAY not in other


def test_the_memory_of_the_pace_is_bounded(pace: RefusalPace) -> None:
    for number in range(30_000):
        pace.delay(f"{number}")
    assert len(pace._due) <= 10_000  # noqa: SLF001 - nothing else shows it
