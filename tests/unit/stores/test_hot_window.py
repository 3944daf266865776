"""What the cover of a shard claims."""

import pytest

from iot_stores.hot_window import Cover

NOW = 1_000_000


@pytest.mark.parametrize(
    ("position", "reaches"),
    [
        ("9-7", True),
        ("8-70", True),
        ("9-8", True),
        ("9-9", False),
        ("9-10", False),
        ("10-0", False),
    ],
)
def test_a_cover_reaches_the_positions_up_to_its_own(position: str, reaches: bool) -> None:
    """Positions are compared as numbers, not as text."""
    assert Cover("9-8", 0, 300).reaches(position) == reaches


@pytest.mark.parametrize(
    ("begin", "since", "holds"),
    [
        (900_000, 900_000, True),
        (900_000, 900_001, False),
        (NOW - 300_000, 0, False),  # such a segment expires while it is read
        (NOW - 299_001, 0, False),
        (NOW - 299_000, 0, True),
    ],
)
def test_a_cover_holds_what_was_received_since_its_start_and_does_not_expire_now(
    begin: int, since: int, holds: bool
) -> None:
    assert Cover("9-8", since, 300).holds(begin, NOW) == holds
