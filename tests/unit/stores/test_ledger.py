"""The numbers of a session, compared with a set."""

from hypothesis import given
from hypothesis import strategies as st

from iot_stores.ledger import SessionNumbers

NUMBERS = st.integers(1, 60)


@given(st.lists(NUMBERS, max_size=200))
def test_each_number_is_stored_once_in_any_order(arrivals: list[int]) -> None:
    numbers, stored = SessionNumbers(), set[int]()
    for number in arrivals:
        assert numbers.mark_stored(number) == (number not in stored)
        stored.add(number)
    assert numbers.high == max(stored, default=0)
    assert numbers.missing == set(range(1, numbers.high)) - stored


@given(st.permutations(range(1, 400)))
def test_a_complete_session_has_no_missing_numbers(arrivals: list[int]) -> None:
    numbers = SessionNumbers()
    assert all(numbers.mark_stored(number) for number in arrivals)
    assert (numbers.high, numbers.missing) == (399, set())
    assert not any(numbers.mark_stored(number) for number in arrivals)


@given(st.lists(st.lists(NUMBERS, max_size=30), max_size=10))
def test_numbers_stored_between_drains_are_recognized(drains: list[list[int]]) -> None:
    kept, stored = SessionNumbers(), set[int]()
    for drain in drains:
        numbers = SessionNumbers(kept.high, set(kept.missing))
        for number in drain:
            assert numbers.mark_stored(number) == (number not in stored)
            stored.add(number)
        kept = numbers
