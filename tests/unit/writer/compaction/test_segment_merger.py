"""Merging keeps all readings, splits them by day, sorts them and cuts pieces of equal size."""

from itertools import chain, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iot_stores.months import DAY_MS
from iot_writer.compaction import segment_merger
from iot_writer.compaction.segment_merger import MAX_READINGS, merge_segments
from support.segment_rows import Row, columns_of, rows_of

"""Interrogator timestamp, id, time of receipt, relative timestamp, freeform."""

ROWS = st.lists(
    st.tuples(
        st.integers(0, 20), st.integers(0, 10**6), st.integers(0, 4 * DAY_MS), st.integers(),
        st.text(),
    ),
    min_size=1,
    max_size=60,
    unique_by=lambda row: row[1],
)  # fmt: skip


@given(ROWS, st.integers(1, 10), st.integers(1, 7))
def test_merged_pieces_hold_all_readings_by_day_in_order(
    rows: list[Row], each: int, most: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segment_merger, "MAX_READINGS", most)
        parts = [columns_of(sorted(rows[i : i + each])) for i in range(0, len(rows), each)]
        pieces = [rows_of(piece) for piece in merge_segments(parts)]
    assert sorted(chain.from_iterable(pieces)) == sorted(rows)
    days = [{received // DAY_MS for _, _, received, _, _ in piece} for piece in pieces]
    assert all(len(day) == 1 for day in days)
    assert days == sorted(days, key=min)
    for piece in pieces:
        assert piece == sorted(piece)
        assert 0 < len(piece) <= most
    for (piece, following), (day, other) in zip(pairwise(pieces), pairwise(days), strict=True):
        if day == other:
            assert piece[-1][:2] < following[0][:2]
            assert abs(len(piece) - len(following)) <= 1


def test_thousands_of_readings_are_cut_evenly() -> None:
    rows: list[Row] = [(n, n, n, n, "") for n in range(2 * MAX_READINGS + 2)]
    sizes = [len(piece.ids) for piece in merge_segments([columns_of(rows)])]
    assert sizes == [len(rows) // 3] * 3
