"""The planner merges enough segments at a time, of one day, and rewrites readings rarely."""

import math

from hypothesis import given
from hypothesis import strategies as st

from iot_api.vaults.compaction_planner import (
    MAX_BYTES,
    MAX_READINGS,
    MAX_SEGMENTS,
    MIN_SEGMENTS,
    plan,
)
from iot_models.compaction_order import SMALL_READINGS
from iot_stores.months import DAY_MS
from iot_stores.small_segments import SMALL_BYTES, SmallSegment
from iot_writer.compaction import segment_merger

NOW = 20_000 * DAY_MS + DAY_MS // 2
TODAY = 20_000 * DAY_MS


def segment(received: int, count: int = 1, size: int = 200) -> SmallSegment:
    return SmallSegment(received, received, count, size)


SEGMENTS = st.lists(
    st.builds(
        segment,
        st.integers(TODAY - 3 * DAY_MS, NOW - 1),
        st.one_of(st.just(1), st.integers(1, SMALL_READINGS - 1)),
        st.one_of(st.just(200), st.integers(100, SMALL_BYTES - 1)),
    ),
    max_size=300,
).map(lambda found: sorted(found, key=lambda each: each.received_min))


@given(SEGMENTS)
def test_orders_are_bounded_disjoint_and_of_one_day(found: list[SmallSegment]) -> None:
    orders = list(plan(found, NOW))
    named = [id(each) for order in orders for each in order]
    assert len(named) == len(set(named))
    for order in orders:
        assert 2 <= len(order) <= MAX_SEGMENTS
        assert sum(each.count for each in order) <= MAX_READINGS
        assert sum(each.size for each in order) <= MAX_BYTES
        assert len({each.received_min // DAY_MS for each in order}) == 1
        assert order == sorted(order, key=lambda each: each.received_min)


@given(st.lists(st.integers(1, SMALL_READINGS - 1), max_size=300))
def test_during_the_day_a_merge_at_least_doubles_each_segment(counts: list[int]) -> None:
    orders = list(plan([segment(TODAY + place, n) for place, n in enumerate(counts)], NOW))
    for order in orders[:1] if sum(counts) <= MAX_READINGS else []:
        assert len(order) >= MIN_SEGMENTS
        assert sum(each.count for each in order) >= 2 * max(each.count for each in order)


def test_a_past_day_is_merged_completely() -> None:
    yesterday = TODAY - DAY_MS
    assert list(plan([segment(yesterday)], NOW)) == []
    both = [segment(yesterday), segment(yesterday + 1, SMALL_READINGS - 1)]
    assert list(plan(both, NOW)) == [both]
    assert list(plan([segment(yesterday), segment(TODAY)], NOW)) == []
    # A day is past once the hot window has dropped all of it.
    assert list(plan(both, TODAY - 1)) == []


def test_few_segments_of_the_current_day_are_not_merged() -> None:
    few = [segment(TODAY + number) for number in range(MIN_SEGMENTS)]
    assert list(plan(few[1:], NOW)) == []
    assert list(plan(few, NOW)) == [few]
    assert list(plan([*few[1:], segment(TODAY + 99, SMALL_READINGS - 1)], NOW)) == []


def test_a_reading_is_rewritten_a_logarithmic_number_of_times() -> None:
    """However slowly readings arrive: its segment at least doubles each time."""
    held: list[SmallSegment] = []
    written = 0
    for number in range(20_000):
        held.append(segment(TODAY + number))
        if number % 10 == 0:
            for order in plan(held, NOW):
                held = [each for each in held if each not in order]
                count = sum(each.count for each in order)
                written += count
                if count < SMALL_READINGS:
                    held.append(segment(order[0].received_min, count))
        assert len(held) < MIN_SEGMENTS + 20
    assert written / 20_000 <= math.log2(2 * SMALL_READINGS / MIN_SEGMENTS)


def test_one_order_needs_one_key_a_day() -> None:
    """All readings of a day in one order fit into one merged segment."""
    assert MAX_READINGS <= segment_merger.MAX_READINGS
