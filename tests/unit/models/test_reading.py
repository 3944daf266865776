"""Columns of 64-bit integers, and the time of receipt in answers."""

import struct
from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iot_models.reading import (
    INT64_MAX,
    INT64_MIN,
    SEPARATOR,
    Reading,
    ReadingColumns,
    absolute_timestamp,
    count_texts,
    int64s,
)

INT64 = st.integers(INT64_MIN, INT64_MAX)


@given(st.lists(INT64))
def test_integers_are_stored_little_endian(values: list[int]) -> None:
    wire = struct.pack(f"<{len(values)}q", *values)
    assert int64s(values).tobytes() == wire
    assert list(int64s(wire)) == values


@pytest.mark.parametrize("value", [INT64_MIN - 1, INT64_MAX + 1, 10**40])
def test_a_value_beyond_64_bits_is_refused(value: int) -> None:
    with pytest.raises(OverflowError):
        int64s([value])


@pytest.mark.parametrize("value", [1.5, "1", None])
def test_a_value_that_is_not_an_integer_is_refused(value: object) -> None:
    with pytest.raises(TypeError):
        int64s([value])  # type: ignore[list-item]


@pytest.mark.parametrize("length", [1, 7, 9, 15])
def test_a_length_that_is_no_multiple_of_8_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match="multiple"):
        int64s(bytes(length))


def test_columns_start_empty_and_are_not_shared() -> None:
    one, other = ReadingColumns(), ReadingColumns()
    one.relative.append(1)
    assert (len(one), len(other)) == (1, 0)


@given(st.datetimes(datetime(1970, 1, 1), datetime(9999, 12, 31)))  # noqa: DTZ001 -- as hypothesis has it
def test_time_of_receipt_is_utc_to_the_second(moment: datetime) -> None:
    seconds = (moment - datetime(1970, 1, 1)) // timedelta(seconds=1)  # noqa: DTZ001 -- same
    assert absolute_timestamp(seconds) == moment.isoformat(sep=" ", timespec="seconds")


def test_fields_have_the_order_of_the_answers() -> None:
    assert Reading.__struct_fields__ == (
        "absolute_timestamp",
        "freeform",
        "id",
        "interrogator_timestamp",
        "relative_timestamp",
    )


@pytest.mark.parametrize("text", [b"", b"1", b'{"rssi": -60, "epc96": "811adf4a21b5935846a494ef"}'])
@pytest.mark.parametrize("count", [1, 2, 100])
def test_texts_of_any_length_are_counted(text: bytes, count: int) -> None:
    texts = SEPARATOR.join([text] * count)
    for expected in (0, 1, count, 1000):
        assert count_texts(texts, expected) == count
