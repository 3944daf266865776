"""The canary counts a number as lost once, after the grace period, and only if reads succeed."""

import pytest

from iot_tools.checks.watched_readings import CheckResult, WatchedReadings

NOTHING = CheckResult()


@pytest.fixture
def watched() -> WatchedReadings:
    """Watched readings that are kept for 100 s, at most 10 of them."""
    return WatchedReadings(grace=10, keep=100, max_count=10)


def send(watched: WatchedReadings, *numbers: int, now: float = 0) -> None:
    for number in numbers:
        watched.acknowledge(number, sent_at=now - 0.5, now=now)


def test_stored_numbers_have_round_trips(watched: WatchedReadings) -> None:
    send(watched, 1, 2)
    assert watched.bounds == (1, 2)
    assert watched.check({1: 1, 2: 1}, 1).round_trips == [1.5, 1.5]
    assert watched.check({1: 1, 2: 1}, 50) == NOTHING
    assert watched.counted == []


def test_a_number_is_lost_once_after_the_grace_period(watched: WatchedReadings) -> None:
    send(watched, 1, 2)
    assert watched.check({2: 1}, 1).lost == []
    assert watched.check({2: 1}, 10.9).lost == []
    assert watched.check({2: 1}, 11).lost == [1]
    assert watched.check({2: 1}, 50) == NOTHING
    assert watched.counted == [1]


def test_a_number_that_disappears_is_lost(watched: WatchedReadings) -> None:
    send(watched, 1)
    watched.check({1: 1}, 1)
    assert watched.check({}, 40).lost == []
    assert watched.check({}, 50).lost == [1]
    assert watched.check({1: 1}, 60).late == []  # the number was read before, so it is not late


def test_a_lost_number_that_appears_is_late(watched: WatchedReadings) -> None:
    send(watched, 1)
    watched.check({}, 1)
    assert watched.check({}, 11).lost == [1]
    result = watched.check({1: 1}, 20)
    assert (result.late, result.round_trips) == ([1], [20.5])
    assert watched.check({1: 1}, 30) == NOTHING


def test_a_failed_read_restarts_the_grace_period(watched: WatchedReadings) -> None:
    send(watched, 1)
    watched.check({}, 1)
    watched.mark_check_failed()
    assert watched.check({}, 12).lost == []
    assert watched.check({}, 21.9).lost == []
    assert watched.check({}, 22).lost == [1]


def test_a_doubled_number_is_counted_once(watched: WatchedReadings) -> None:
    send(watched, 1)
    assert watched.check({1: 2}, 1).doubled == [1]
    assert watched.check({1: 3}, 2).doubled == []
    assert watched.counted == [1]


def test_numbers_that_were_not_sent_are_ignored(watched: WatchedReadings) -> None:
    send(watched, 5)
    assert watched.check({4: 2, 5: 1, 6: 1}, 1).doubled == []
    assert watched.mark_found(4, 1) is None


def test_a_gap_left_by_another_process_is_lost(watched: WatchedReadings) -> None:
    watched.resume([3, 4, 7], [], 0)
    assert watched.bounds == (3, 7)
    result = watched.check({3: 1, 4: 1, 7: 1}, 0)
    assert (result.lost, result.round_trips) == ([], [])
    assert watched.check({3: 1, 4: 1, 7: 1}, 10).lost == [5, 6]


def test_numbers_counted_by_another_process_are_not_counted(watched: WatchedReadings) -> None:
    watched.resume([3, 5], [4, 5, 99], 0)
    for now in (0, 10, 20):
        assert watched.check({3: 1, 5: 2}, now) == NOTHING
    assert watched.counted == [4, 5]


def test_old_stored_numbers_are_forgotten(watched: WatchedReadings) -> None:
    send(watched, 1, 2)
    watched.check({1: 1}, 50)
    send(watched, 3, now=101)
    assert watched.bounds == (2, 3)  # 2 was never read, so it is kept
    assert watched.check({3: 1}, 110).lost == [2]
    assert watched.bounds == (3, 3)


def test_the_number_of_watched_readings_is_bounded(watched: WatchedReadings) -> None:
    for number in range(1000):
        send(watched, number, now=number)
    assert len(watched) == 10
    assert watched.bounds == (990, 999)


def test_without_readings_there_are_no_bounds(watched: WatchedReadings) -> None:
    assert watched.bounds is None
    assert watched.check({}, 0) == NOTHING
