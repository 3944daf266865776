"""Merged segments keep every id and time of receipt."""

import dataclasses
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iot_models import reading
from iot_models.errors import FormatError
from iot_models.reading import INT64_MAX, INT64_MIN, ReadingColumns, int64s
from iot_models.segment import SegmentBounds, SegmentColumns, decode_segment, decompress
from iot_models.segment_encoding import (
    MERGED_LEVEL,
    compress,
    encode_merged,
    encode_segment,
    may_share_key,
)
from support.segment_rows import Row, assert_bounds, columns_of, rows_of

"""Interrogator timestamp, id, time of receipt, relative timestamp, freeform."""

EXTREME = st.sampled_from([INT64_MIN, INT64_MIN + 1, -1, 0, 1, INT64_MAX - 1, INT64_MAX])
INT64 = st.one_of(st.integers(INT64_MIN, INT64_MAX), EXTREME, st.integers(0, 5))
IDS = st.integers(0, 2**53 - 1) | st.integers(0, 50) | st.sampled_from([2**53 - 1])
RECEIPTS = st.integers(reading.RECEIPTS[0], reading.RECEIPTS[-1]) | st.sampled_from(
    [reading.RECEIPTS[0], -1, 0, 1, reading.RECEIPTS[-1]]
)
TEXT = st.text(st.characters(min_codepoint=1, max_codepoint=127), max_size=20)
ROWS = st.lists(
    st.tuples(INT64, IDS, RECEIPTS, INT64, TEXT),
    min_size=1,
    max_size=40,
    unique_by=lambda row: row[1],
).map(sorted)
SHARD = 3


ROWS_OF_GOLDEN: list[Row] = [
    (-10, 771, 1_700_000_000_456, -1, "null"),
    (20, 262_659, 1_700_000_002_000, 7, '"x"'),
    (20, 262_915, 1_700_000_001_999, 6, ""),
    (30, 515, 1_700_000_000_123, 5, '{"a": 1}'),
]
GOLDEN = bytes.fromhex(
    "28b52ffd209fcd0200d284111fb0358d0100b49ed294e302d380ea2c852319aa4b60f04a7ae5b64d69139902"
    "814561ae39805e74ae053d232607f3579bafbd82b7f01a101fce6045b0d584c9eda426d32802060090812fd0"
    "05582370c71d02037003"
)


def test_merged_segments_of_the_first_version_are_decoded() -> None:
    bounds, data = encode_merged(columns_of(ROWS_OF_GOLDEN), SHARD)
    assert rows_of(decode_segment(bounds, GOLDEN)) == ROWS_OF_GOLDEN
    # The frame may change with the zstd version; the content may not.
    shared, content = (decompress(each, 2**20) for each in (GOLDEN, data))
    assert (shared[0], content[0]) == (2, 3)
    assert content[1:] == shared[1:]
    assert rows_of(decode_segment(bounds, data)) == ROWS_OF_GOLDEN
    old_bounds, old = encode_merged(columns_of(ROWS_OF_GOLDEN), SHARD, key_shared=True)
    assert (old_bounds, decompress(old, 2**20)) == (bounds, shared)
    assert bounds == SegmentBounds(
        515, 262_915, 1_700_000_000_123, 1_700_000_002_000, -1, 7, -10, 30, SHARD, 4
    )


@given(ROWS)
def test_round_trip(rows: list[Row]) -> None:
    bounds, data = encode_merged(columns_of(rows), SHARD)
    assert rows_of(decode_segment(bounds, data)) == rows


def test_a_segment_records_whether_its_key_may_be_shared() -> None:
    assert may_share_key(GOLDEN)
    assert not may_share_key(encode_merged(columns_of(ROWS_OF_GOLDEN), SHARD)[1])
    batches = [
        (1, ReadingColumns(int64s([1, 2]), int64s(times), b"a\0b")) for times in ([3, 4], [4, 3])
    ]
    for batch in batches:
        assert not may_share_key(encode_segment([batch], 0, 0)[1])


@pytest.mark.parametrize("content", [b"", b"\3", b"\3" + bytes(7), b"\4" + bytes(8), bytes(8)])
def test_an_invalid_segment_has_no_shared_key(content: bytes) -> None:
    for data in (content, compress(content, MERGED_LEVEL)):
        with pytest.raises(FormatError):
            may_share_key(data)


@given(ROWS)
def test_bounds_are_those_of_the_readings(rows: list[Row]) -> None:
    bounds, _ = encode_merged(columns_of(rows), SHARD)
    assert_bounds(bounds, rows, shard=SHARD)


def test_a_merged_segment_can_be_merged_again() -> None:
    bounds, data = encode_merged(columns_of(ROWS_OF_GOLDEN), SHARD)
    assert encode_merged(decode_segment(bounds, data), SHARD) == (bounds, data)


@pytest.mark.parametrize("column", ["ids", "received", "relative", "interrogator", "freeform"])
def test_columns_of_different_lengths_are_a_format_error(column: str) -> None:
    whole = columns_of(ROWS_OF_GOLDEN)
    broken = dataclasses.replace(whole, **{column: getattr(whole, column)[:-1]})
    with pytest.raises(FormatError):
        encode_merged(broken, SHARD)


def test_a_segment_without_readings_is_a_format_error() -> None:
    with pytest.raises(FormatError):
        encode_merged(SegmentColumns([], [], [], [], []), SHARD)


@pytest.mark.parametrize("count", [0, 3, 5, 2**31])
def test_a_wrong_count_is_a_format_error(count: int) -> None:
    bounds, _ = encode_merged(columns_of(ROWS_OF_GOLDEN), SHARD)
    with pytest.raises(FormatError):
        decode_segment(dataclasses.replace(bounds, count=count), GOLDEN)


CONTENT = decompress(GOLDEN, 2**20)
BOUNDS = encode_merged(columns_of(ROWS_OF_GOLDEN), SHARD)[0]


def opens_or_format_error(data: bytes) -> None:
    try:
        rows_of(decode_segment(BOUNDS, data))
    except FormatError:
        return


@given(st.binary(max_size=200))
def test_random_bytes_are_a_segment_or_a_format_error(data: bytes) -> None:
    opens_or_format_error(compress(CONTENT[:9] + data, MERGED_LEVEL))


def test_a_changed_byte_is_a_segment_or_a_format_error() -> None:
    for at in range(len(CONTENT)):
        for value in (0, 1, 2, 3, 127, 128, 255):
            changed = CONTENT[:at] + bytes([value]) + CONTENT[at + 1 :]
            opens_or_format_error(compress(changed, MERGED_LEVEL))


@given(st.integers(0, len(CONTENT) - len('{"a": 1}') - 1))
def test_a_truncated_segment_is_a_format_error(length: int) -> None:
    with pytest.raises(FormatError):
        decode_segment(BOUNDS, compress(CONTENT[:length], MERGED_LEVEL))


@pytest.mark.parametrize(
    ("at", "patch"),
    [
        (1, struct.pack("<I", 2**32 - 1)),  # more readings than bytes
        (9, b"\x07"),  # an unknown encoding of a column
        (len(CONTENT) - 1, b"\xff"),  # a text that is not ASCII
        (len(CONTENT) - 1, b"\x00"),  # one text more than readings
    ],
)
def test_each_part_of_a_segment_is_checked(at: int, patch: bytes) -> None:
    content = CONTENT[:at] + patch + CONTENT[at + len(patch) :]
    with pytest.raises(FormatError):
        decode_segment(BOUNDS, compress(content, MERGED_LEVEL))
