"""A flood of refused requests makes few records."""

import pytest

from iot_api.audit.refusals import MAX_KEYS, PERIOD_SECONDS, Refusal, RefusalCounter
from support.clock import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def counter(clock: Clock) -> RefusalCounter[Refusal]:
    return RefusalCounter(clock)


def _refusal(client: int) -> Refusal:
    return Refusal("unknown_token", "ingest", None, f"10.0.0.{client}")


def test_a_refusal_is_recorded_once_a_minute_with_its_count(
    clock: Clock, counter: RefusalCounter[Refusal]
) -> None:
    taken = []
    for _ in range(180):  # three minutes, ten requests a second
        for _ in range(10):
            counter.count(_refusal(1))
        taken += counter.take()
        clock.now += 1
    assert [count for _, count in taken] == [10, 600, 600]
    clock.now += PERIOD_SECONDS
    assert counter.take() == [(_refusal(1), 590)]
    assert counter.take() == []


def test_many_clients_make_a_bounded_number_of_records(
    clock: Clock, counter: RefusalCounter[Refusal]
) -> None:
    taken = []
    for second in range(120):
        for client in range(1000):
            counter.count(_refusal(1000 * second + client))
        taken += counter.take()
        clock.now += 1
    assert len(taken) <= 3 * (MAX_KEYS + 1)
    taken += counter.take(all_waiting=True)
    assert sum(count for _, count in taken) == 120_000
    assert any(refusal.client is None for refusal, _ in taken)


def test_an_unrecorded_count_is_due_again(counter: RefusalCounter[Refusal]) -> None:
    counter.count(_refusal(1))
    ((refusal, count),) = counter.take()
    counter.count(_refusal(1))
    assert counter.take() == []
    counter.put_back(refusal, count)
    assert counter.take() == [(_refusal(1), 2)]


def test_the_end_of_a_process_takes_everything(counter: RefusalCounter[Refusal]) -> None:
    counter.count(_refusal(1))
    counter.take()
    counter.count(_refusal(1))
    assert counter.take(all_waiting=True) == [(_refusal(1), 1)]
