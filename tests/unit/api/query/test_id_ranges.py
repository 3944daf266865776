"""Ranges of ids, compared with sets of ids."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iot_api.query import readings
from iot_api.query.readings import IdRanges, Overlap
from iot_models.segment import ID_STRIDE, SegmentBounds

SEGMENTS = st.lists(
    st.tuples(st.integers(0, 40), st.integers(1, 6), st.booleans(), st.integers(0, 1)), max_size=30
)


def bounds(first: int, count: int, *, gap: bool = False, shard: int = 0) -> SegmentBounds:
    """Return the bounds of `count` ids from `first` on; a gap makes the range longer by one."""
    first_id = first * ID_STRIDE + shard
    last_id = first_id + (count - 1 + gap) * ID_STRIDE
    return SegmentBounds(first_id, last_id, 0, 0, 0, 0, 0, 0, shard, count)


@given(segments=SEGMENTS)
def test_overlaps_are_found(segments: list[tuple[int, int, bool, int]]) -> None:
    ranges = IdRanges()
    dense: set[int] = set()
    sparse: set[int] = set()
    for first, count, gap, shard in segments:
        each = bounds(first, count, gap=gap, shard=shard)
        ids = set(range(each.first_id, each.last_id + 1, ID_STRIDE))
        found = ranges.add(each)
        if not gap and ids & dense:
            assert found is Overlap.CERTAIN
        else:
            assert found is (Overlap.POSSIBLE if ids & (dense | sparse) else Overlap.NONE)
        (sparse if gap else dense).update(ids)


def test_the_number_of_ranges_is_bounded() -> None:
    ranges = IdRanges()
    count = 3 * readings.MAX_RANGES
    assert {ranges.add(bounds(2 * n, 1)) for n in range(count)} == {Overlap.NONE}
    assert ranges.add(bounds(2 * count - 2, 1)) is Overlap.CERTAIN


@pytest.mark.parametrize("step", [2, -2])
def test_the_ranges_near_the_last_one_are_kept(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A read meets the copies of a reading near each other."""
    monkeypatch.setattr(readings, "MAX_RANGES", 4)
    ranges = IdRanges()
    for n in range(20):
        assert ranges.add(bounds(100 + step * n, 1)) is Overlap.NONE
        assert ranges.add(bounds(100 + step * n, 1)) is Overlap.CERTAIN
