"""A ledger that was restored from a backup meets sessions that went on without it."""

from iot_stores.ledger import MAX_MISSING, SessionNumbers


def test_a_jump_leaves_only_so_many_missing() -> None:
    numbers = SessionNumbers(high=10)
    assert numbers.mark_stored(10_000_000_000)
    assert len(numbers.missing) == MAX_MISSING
    assert numbers.mark_stored(9_999_999_999)
    assert not numbers.mark_stored(9_999_999_999)
