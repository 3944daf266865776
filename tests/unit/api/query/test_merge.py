"""The merge, compared with sorting all readings."""

import itertools
import tracemalloc
import uuid
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iot_api.query import merge as merge_module
from iot_api.query.merge import (
    ASCENDING,
    DESCENDING,
    MergeBuffer,
    Order,
    Rows,
    merge,
    position,
)
from iot_cipher.encryption import SealedSegment
from iot_models.reading import SEPARATOR, Reading
from iot_models.segment import ID_STRIDE, SegmentBounds, SegmentColumns, Texts

EPOCH = "1970-01-01 00:00:00"
VAULT = uuid.UUID(int=1)
Segments = list[list[Reading]]

TIMES = st.integers(-3, 3) | st.sampled_from([-(2**63), 2**63 - 1])
ORDERS = st.sampled_from([ASCENDING, DESCENDING])
MAX_BYTES = st.sampled_from([0, 900, 3000, 10**9])
"""Buffer limits, from the minimum on. A reading counts 300 bytes."""
SEGMENTS = st.lists(st.lists(TIMES, min_size=1, max_size=9), max_size=12)


def readings(times: list[list[int]]) -> Segments:
    """Make a segment of each list of times. Ids are in the order of arrival."""
    ids = itertools.count(ID_STRIDE, ID_STRIDE)
    return [
        sorted((Reading(EPOCH, "", next(ids), time, 0) for time in each), key=position)
        for each in times
    ]


def sealed(of: list[Reading]) -> SealedSegment:
    ids = [each.id for each in of]
    times = [each.interrogator_timestamp for each in of]
    bounds = SegmentBounds(min(ids), max(ids), 0, 0, 0, 0, min(times), max(times), 0, len(of))
    return SealedSegment(VAULT, bounds, b"")


class Opening:
    """Opens segments, and counts how often and how many readings."""

    def __init__(self, segments: Segments, *, leave_out: int = 0, order: Order = ASCENDING) -> None:
        self._of = {sealed(segment).bounds: segment for segment in segments}
        self._order = order
        self._leave_out = leave_out
        self.given = 0
        self.opened = 0
        stored = [sealed(segment) for segment in segments]
        # In the order in which the database returns them.
        self.stored = sorted(stored, key=lambda each: order.begin(each.bounds))

    def open(self, segment: SealedSegment) -> Rows:
        found = [
            each
            for each in self._of[segment.bounds]
            if not self._leave_out or (each.id // ID_STRIDE) % self._leave_out
        ]
        self.given += len(found)
        self.opened += 1
        columns = SegmentColumns(
            [each.id for each in found],
            [0] * len(found),
            [each.relative_timestamp for each in found],
            [each.interrogator_timestamp for each in found],
            [""] * len(found),
        )
        return Rows(columns, self._order, 0, len(found))


@pytest.fixture(params=[1, 2, 5])
def batch(request: pytest.FixtureRequest) -> Iterator[int]:
    """Small batches, so that everything between two batches happens often."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(merge_module, "BATCH", request.param)
        yield request.param


def merged_and_sorted(
    opening: Opening, segments: Segments, order: Order = ASCENDING, max_bytes: int = 10**9
) -> tuple[list[Reading], list[Reading]]:
    batches = list(merge(opening.stored, opening.open, order, max_bytes=lambda: max_bytes))
    assert all(batches)
    everything = [each for segment in opening.stored for each in opening.open(segment).readings()]
    assert len(everything) <= sum(map(len, segments))
    return [each for batch in batches for each in batch], sorted(everything, key=order.key)


@pytest.mark.usefixtures("batch")
class TestOrder:
    """Readings are ordered by interrogator timestamp and id, whatever overlaps."""

    @given(times=SEGMENTS, order=ORDERS, max_bytes=MAX_BYTES)
    def test_the_merge_equals_sorting_all_readings(
        self, times: list[list[int]], order: Order, max_bytes: int
    ) -> None:
        segments = readings(times)
        opening = Opening(segments, order=order)
        merged, wanted = merged_and_sorted(opening, segments, order, max_bytes)
        assert merged == wanted
        assert len(merged) == sum(map(len, times))

    @given(times=SEGMENTS, leave_out=st.integers(1, 3), order=ORDERS, max_bytes=MAX_BYTES)
    def test_the_merge_equals_sorting_when_a_filter_drops_readings(
        self, times: list[list[int]], leave_out: int, order: Order, max_bytes: int
    ) -> None:
        """The bounds then include readings that are not returned."""
        segments = readings(times)
        opening = Opening(segments, leave_out=leave_out, order=order)
        merged, wanted = merged_and_sorted(opening, segments, order, max_bytes)
        assert merged == wanted

    @given(
        times=SEGMENTS,
        repeated=st.lists(st.tuples(st.integers(0, 11), st.integers(1, 8)), max_size=4),
        order=ORDERS,
        max_bytes=MAX_BYTES,
    )
    def test_readings_of_two_segments_come_once(
        self,
        times: list[list[int]],
        repeated: list[tuple[int, int]],
        order: Order,
        max_bytes: int,
    ) -> None:
        segments = readings(times)
        again = [segments[number][begin:] for number, begin in repeated if number < len(segments)]
        opening = Opening([*segments, *filter(None, again)], order=order)
        batches = list(merge(opening.stored, opening.open, order, max_bytes=lambda: max_bytes))
        merged = [each for batch in batches for each in batch]
        assert merged == sorted((each for segment in segments for each in segment), key=order.key)


def test_only_readings_of_overlapping_parts_are_buffered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merge_module, "BATCH", 10)
    segments = readings([list(range(start, start + 60)) for start in range(0, 1000, 50)])
    opening = Opening(segments)
    buffered = 0
    append = MergeBuffer._append  # noqa: SLF001 - the only place where rows become readings

    def counted(buffer: MergeBuffer, rows: Rows) -> None:
        nonlocal buffered
        buffered += len(rows)
        append(buffer, rows)

    monkeypatch.setattr(MergeBuffer, "_append", counted)
    merged = [each for batch in merge(opening.stored, opening.open) for each in batch]
    assert merged == sorted((each for segment in segments for each in segment), key=position)
    assert buffered <= 19 * 10


def test_consecutive_segments_are_not_buffered(monkeypatch: pytest.MonkeyPatch) -> None:
    """At most two segments are in memory at a time."""
    monkeypatch.setattr(merge_module, "BATCH", 10)
    segments = readings([list(range(start, start + 10)) for start in range(0, 1000, 10)])
    opening = Opening(segments)
    passed_on = 0
    for batch in merge(opening.stored, opening.open):
        passed_on += len(batch)
        assert opening.given - passed_on <= 20
    assert passed_on == 1000


def test_segments_are_opened_lazily() -> None:
    opening = Opening(readings([[1], [2]]))
    batches = merge(opening.stored, opening.open)
    assert opening.given == 0
    assert len(next(batches)) == 2


def test_sorting_overlapping_segments_is_not_quadratic(monkeypatch: pytest.MonkeyPatch) -> None:
    """For example in a vault whose devices repeat the same times."""
    monkeypatch.setattr(merge_module, "BATCH", 4)
    seen = 0

    def counted(reading: Reading) -> tuple[int, int]:
        nonlocal seen
        seen += 1
        return reading.interrogator_timestamp, reading.id

    count = 2000
    segments = readings([[0, 100] for _ in range(count // 2)])
    opening = Opening(segments)
    merged = merge(opening.stored, opening.open, Order(descending=False, key=counted))
    assert sum(map(len, merged)) == count
    assert seen < 40 * count


def test_the_buffer_of_overlapping_segments_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """40 overlapping segments of 50 readings: at most 100 readings and a segment are buffered."""
    monkeypatch.setattr(merge_module, "BATCH", 20)
    segments = readings([list(range(start, 2000, 40)) for start in range(40)])
    opening = Opening(segments)
    merged: list[Reading] = []
    largest = 0
    for batch in merge(opening.stored, opening.open, max_bytes=lambda: 100 * 300):
        largest = max(largest, len(batch))
        merged += batch
    assert merged == sorted(merged, key=position)
    assert len(merged) == 2000
    assert largest <= 150
    # A batch of about 50 readings follows each spill: a segment is opened at most 40 times.
    assert opening.opened <= 40 * 40


def test_segments_that_overlap_only_neighbours_are_opened_once() -> None:
    """A small buffer costs nothing there."""
    segments = readings([list(range(start, start + 60)) for start in range(0, 1000, 50)])
    opening = Opening(segments)
    batches = merge(opening.stored, opening.open, batch=50, max_bytes=lambda: 0)
    assert sum(map(len, batches)) == 1200
    assert opening.opened == 20


@pytest.mark.parametrize("order", [ASCENDING, DESCENDING])
def test_rows_are_in_the_order_of_the_read(order: Order, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("iot_models.segment.RUN_CHARACTERS", 2)  # several runs
    numbers = range(7)
    texts = Texts(SEPARATOR.join(b"%d" % number for number in numbers), 0, len(numbers))
    columns = SegmentColumns(numbers, numbers, numbers, numbers, texts)
    rows = Rows(columns, order, 1, 6)
    expected = sorted(columns.readings()[1:6], key=order.key)
    assert rows.readings() == expected
    runs = list(rows.runs())
    assert len(runs) > 1
    assert list(itertools.chain.from_iterable(runs)) == expected
    for count in (0, 2, 9):
        assert rows.first(count).readings() == expected[:count]


@pytest.mark.parametrize("order", [ASCENDING, DESCENDING])
def test_one_large_text_is_in_memory_at_a_time(order: Order) -> None:
    size, numbers = 2**20, range(5)
    content = SEPARATOR.join(bytes([65 + number]) * size for number in numbers)
    columns = SegmentColumns(numbers, numbers, numbers, numbers, Texts(content, 0, len(numbers)))
    seen = 0
    tracemalloc.start()
    try:
        for run in Rows(columns, order, 0, len(numbers)).runs():
            seen += len(run)
            del run  # as a read does before it asks for more
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert seen == len(numbers)
    assert peak < 1.5 * size
