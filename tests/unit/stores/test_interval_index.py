"""The index of intervals: the search for a position begins before each segment that contains it."""

from bisect import bisect_right

from hypothesis import example, given
from hypothesis import strategies as st

from iot_models.reading import IDS, INT64_MAX, INT64_MIN
from iot_stores.interval_index import REACH, Position, probes

BOUNDS = [int(bound) for bound in REACH.partition("{")[2].partition("}")[0].split(",")]
"""Lower bounds of the classes of length, as the database has them."""
POSITIONS = st.tuples(
    st.integers(INT64_MIN, INT64_MAX) | st.integers(INT64_MIN, INT64_MIN + 2),
    st.integers(IDS.start, IDS.stop - 1) | st.integers(IDS.start, 2),
)


@given(st.tuples(POSITIONS, POSITIONS, POSITIONS).map(sorted))
@example([(INT64_MIN, 0), (INT64_MIN, 1), (INT64_MIN + 1, 2)])
@example([(INT64_MIN, 0), (INT64_MIN, 1), (INT64_MAX, 2)])
def test_no_segment_that_contains_a_position_is_missed(found: list[Position]) -> None:
    first, position, last = found
    length = (last[0] - first[0]) * IDS.stop + last[1] - first[1]
    reaches, times, ids = probes(position)
    at = reaches.index(bisect_right(BOUNDS, length))
    assert (times[at], ids[at]) <= first
