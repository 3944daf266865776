"""A ledger restored from a backup receives sessions with large gaps."""

from iot_stores.ledger import MAX_MISSING, SessionNumbers


def test_missing_numbers_are_bounded_after_a_large_gap() -> None:
    numbers = SessionNumbers(high=10)
    assert numbers.mark_stored(10_000_000_000)
    assert len(numbers.missing) == MAX_MISSING
    assert numbers.mark_stored(9_999_999_999)
    assert not numbers.mark_stored(9_999_999_999)
