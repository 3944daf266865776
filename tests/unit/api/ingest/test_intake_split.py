"""A large request becomes several entries, none with too many readings or bytes."""

import time
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iot_api.ingest import intake
from iot_api.ingest.intake import MAX_FREEFORM_BYTES, MAX_READINGS
from iot_models.reading import SEPARATOR, ReadingColumns, int64s
from iot_stores.months import DAY_MS
from support.counting import function_calls
from support.segment_rows import reading_columns


def columns(texts: list[bytes]) -> ReadingColumns:
    return reading_columns((number, -number, text) for number, text in enumerate(texts))


def split(readings: ReadingColumns) -> list[ReadingColumns]:
    return list(intake._split(readings))  # noqa: SLF001 - its bounds are what this is about


@given(
    st.lists(st.binary(max_size=60).map(lambda data: data.hex().encode()), min_size=1, max_size=40)
)
def test_entries_are_bounded_whole_and_in_order(texts: list[bytes]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(intake, "MAX_READINGS", 10)
        patch.setattr(intake, "MAX_FREEFORM_BYTES", 100)
        parts = split(columns(texts))
    assert [text for part in parts for text in part.freeform.split(SEPARATOR)] == texts
    whole = columns(texts)
    assert int64s([each for part in parts for each in part.relative]) == whole.relative
    assert int64s([each for part in parts for each in part.interrogator]) == whole.interrogator
    for part in parts:
        assert len(part) == part.freeform.count(SEPARATOR) + 1
        assert len(part) <= 10
        assert len(part.freeform) <= 100 or len(part) == 1
    for one, next_one in pairwise(parts):  # none was cut without need
        first = next_one.freeform.split(SEPARATOR)[0]
        assert len(one) == 10 or len(one.freeform) + 1 + len(first) > 100


def test_a_large_reading_is_an_entry_of_its_own() -> None:
    large, half = b"1" * (2 * MAX_FREEFORM_BYTES), b"2" * (MAX_FREEFORM_BYTES // 2 - 1)
    parts = split(columns([b"0", large, b"0", half, half, large]))
    assert [len(part) for part in parts] == [1, 1, 2, 1, 1]


def test_a_small_request_is_not_split() -> None:
    whole = columns([b"1"] * MAX_READINGS)
    (part,) = split(whole)
    assert part is whole
    assert function_calls(lambda: split(whole)) < 10


def test_an_import_is_split_by_day_in_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other requests are served before the entries of each day."""
    splits: list[int] = []
    turns: list[float] = []

    class Texts(bytes):
        __slots__ = ()

        def split(self, *arguments: Any) -> list[bytes]:
            splits.append(len(self))
            return super().split(*arguments)

    monkeypatch.setattr(time, "sleep", turns.append)
    texts = [b"%d" % number for number in range(1000)]
    whole = columns(texts)
    whole.freeform = Texts(whole.freeform)
    whole.received = int64s([number % 100 * DAY_MS + number for number in range(1000)])
    parts = split(whole)
    assert splits == [len(whole.freeform)]
    assert turns == [0] * 100
    for day, part in enumerate(parts):
        numbers = range(day, 1000, 100)
        assert part.freeform.split(SEPARATOR) == texts[day::100]
        assert part.relative == int64s([*numbers])
        assert part.interrogator == int64s([-number for number in numbers])
        assert part.received == int64s([day * DAY_MS + number for number in numbers])
    assert len(parts) == 100


def test_other_greenlets_run_between_the_entries_of_a_large_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    turns: list[float] = []
    monkeypatch.setattr(time, "sleep", turns.append)
    assert len(split(columns([b"1"] * (3 * MAX_READINGS)))) == 3
    assert turns == [0] * 3
