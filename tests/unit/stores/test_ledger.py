"""The numbers of a session against a plain set."""

from hypothesis import given
from hypothesis import strategies as st

from iot_stores.ledger import SessionNumbers

NUMBERS = st.integers(1, 60)


@given(st.lists(NUMBERS, max_size=200))
def test_each_number_is_admitted_once_in_whatever_order(arrivals: list[int]) -> None:
    numbers, stored = SessionNumbers(), set[int]()
    for number in arrivals:
        assert numbers.mark_stored(number) == (number not in stored)
        stored.add(number)
    assert numbers.high == max(stored, default=0)
    assert numbers.missing == set(range(1, numbers.high)) - stored


@given(st.permutations(range(1, 400)))
def test_a_session_in_any_order_leaves_nothing_to_remember(arrivals: list[int]) -> None:
    numbers = SessionNumbers()
    assert all(numbers.mark_stored(number) for number in arrivals)
    assert (numbers.high, numbers.missing) == (399, set())
    assert not any(numbers.mark_stored(number) for number in arrivals)


@given(st.lists(st.lists(NUMBERS, max_size=30), max_size=10))
def test_what_is_kept_between_drains_answers_the_same(drains: list[list[int]]) -> None:
    kept, stored = SessionNumbers(), set[int]()
    for drain in drains:
        numbers = SessionNumbers(kept.high, set(kept.missing))
        for number in drain:
            assert numbers.mark_stored(number) == (number not in stored)
            stored.add(number)
        kept = numbers
