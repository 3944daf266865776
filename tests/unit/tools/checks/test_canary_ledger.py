"""What the canary calls lost: each number once, after its grace, and only when reads work."""

import pytest

from iot_tools.checks.canary_ledger import Ledger, Verdict

NOTHING = Verdict()


@pytest.fixture
def ledger() -> Ledger:
    """One that forgets after 100 s, or beyond 10."""
    return Ledger(grace=10, keep=100, most=10)


def send(ledger: Ledger, *numbers: int, now: float = 0) -> None:
    for number in numbers:
        ledger.acknowledge(number, sent_at=now - 0.5, now=now)


def test_all_is_well(ledger: Ledger) -> None:
    send(ledger, 1, 2)
    assert ledger.bounds == (1, 2)
    assert ledger.judge({1: 1, 2: 1}, 1).round_trips == [1.5, 1.5]
    assert ledger.judge({1: 1, 2: 1}, 50) == NOTHING
    assert ledger.counted == []


def test_a_number_is_lost_after_its_grace_and_once(ledger: Ledger) -> None:
    send(ledger, 1, 2)
    assert ledger.judge({2: 1}, 1).lost == []
    assert ledger.judge({2: 1}, 10.9).lost == []
    assert ledger.judge({2: 1}, 11).lost == [1]
    assert ledger.judge({2: 1}, 50) == NOTHING
    assert ledger.counted == [1]


def test_a_number_that_was_there_and_is_gone(ledger: Ledger) -> None:
    send(ledger, 1)
    ledger.judge({1: 1}, 1)
    assert ledger.judge({}, 40).lost == []
    assert ledger.judge({}, 50).lost == [1]
    assert ledger.judge({1: 1}, 60).late == []  # it came back, it was not late


def test_a_number_that_is_late(ledger: Ledger) -> None:
    send(ledger, 1)
    ledger.judge({}, 1)
    assert ledger.judge({}, 11).lost == [1]
    verdict = ledger.judge({1: 1}, 20)
    assert (verdict.late, verdict.round_trips) == ([1], [20.5])
    assert ledger.judge({1: 1}, 30) == NOTHING


def test_a_failed_look_begins_the_grace_anew(ledger: Ledger) -> None:
    send(ledger, 1)
    ledger.judge({}, 1)
    ledger.fail()
    assert ledger.judge({}, 12).lost == []
    assert ledger.judge({}, 21.9).lost == []
    assert ledger.judge({}, 22).lost == [1]


def test_a_doubled_number_is_counted_once(ledger: Ledger) -> None:
    send(ledger, 1)
    assert ledger.judge({1: 2}, 1).doubled == [1]
    assert ledger.judge({1: 3}, 2).doubled == []
    assert ledger.counted == [1]


def test_numbers_never_sent_are_nobodys(ledger: Ledger) -> None:
    send(ledger, 5)
    assert ledger.judge({4: 2, 5: 1, 6: 1}, 1).doubled == []
    assert ledger.arrive(4, 1) is None


def test_a_gap_that_another_process_left(ledger: Ledger) -> None:
    ledger.resume([3, 4, 7], [], 0)
    assert ledger.bounds == (3, 7)
    verdict = ledger.judge({3: 1, 4: 1, 7: 1}, 0)
    assert (verdict.lost, verdict.round_trips) == ([], [])
    assert ledger.judge({3: 1, 4: 1, 7: 1}, 10).lost == [5, 6]


def test_what_another_process_counted_is_not_counted_again(ledger: Ledger) -> None:
    ledger.resume([3, 5], [4, 5, 99], 0)
    for now in (0, 10, 20):
        assert ledger.judge({3: 1, 5: 2}, now) == NOTHING
    assert ledger.counted == [4, 5]


def test_what_is_old_and_there_is_forgotten(ledger: Ledger) -> None:
    send(ledger, 1, 2)
    ledger.judge({1: 1}, 50)
    send(ledger, 3, now=101)
    assert ledger.bounds == (2, 3)  # 2 was never seen: nothing is known of it yet
    assert ledger.judge({3: 1}, 110).lost == [2]
    assert ledger.bounds == (3, 3)


def test_its_memory_is_bounded(ledger: Ledger) -> None:
    for number in range(1000):
        send(ledger, number, now=number)
    assert len(ledger) == 10
    assert ledger.bounds == (990, 999)


def test_nothing_is_looked_for_at_first(ledger: Ledger) -> None:
    assert ledger.bounds is None
    assert ledger.judge({}, 0) == NOTHING
