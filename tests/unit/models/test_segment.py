"""Segments: the format and the order are stable, and invalid bytes are refused."""

import dataclasses
import struct
from collections.abc import Sequence

import pytest
from bench.readings import EPOCH_US, freeform, time_of
from hypothesis import assume, given
from hypothesis import strategies as st

from iot_models import segment
from iot_models.compaction_order import SMALL_READINGS
from iot_models.errors import FormatError
from iot_models.reading import (
    INT64_MAX,
    INT64_MIN,
    RECEIPTS,
    SEPARATOR,
    Reading,
    ReadingColumns,
    int64s,
)
from iot_models.segment import (
    ID_STRIDE,
    SegmentBounds,
    Texts,
    decode_segment,
    decompress,
    split_texts,
)
from iot_models.segment_encoding import (
    SEGMENT_LEVEL,
    compress,
    encode_merged,
    encode_segment,
    may_share_key,
)
from support.defective_segments import DEFECTS, Defect
from support.defective_segments import content as content_of
from support.segment_rows import Row as SegmentRow
from support.segment_rows import assert_bounds, reading_columns, rows_of

Row = tuple[int, int, bytes]
Batch = tuple[int, list[Row]]

EXTREME = st.sampled_from([INT64_MIN, INT64_MIN + 1, -1, 0, 1, INT64_MAX - 1, INT64_MAX])
INT64 = st.one_of(st.integers(INT64_MIN, INT64_MAX), EXTREME, st.integers(0, 5))
TEXT = st.binary(max_size=20).map(lambda text: bytes(1 + byte % 127 for byte in text))
ROWS = st.lists(st.tuples(INT64, INT64, TEXT), min_size=1, max_size=15)
RECEIVED = st.integers(RECEIPTS[0], RECEIPTS[-1]) | st.sampled_from(
    [RECEIPTS[0], -1, 0, 1, RECEIPTS[-1]]
)
BATCHES = st.lists(st.tuples(RECEIVED, ROWS), min_size=1, max_size=6)
FIRST_ID, SHARD = 512 + 3, 3


def encode(batches: Sequence[Batch]) -> tuple[SegmentBounds, bytes]:
    return encode_segment(
        [(received, reading_columns(rows)) for received, rows in batches], FIRST_ID, SHARD
    )


def expected_rows(batches: Sequence[Batch]) -> list[SegmentRow]:
    """Return the rows of a segment by the simplest algorithm."""
    found, next_id = [], FIRST_ID
    for received, rows in batches:
        for relative, interrogator, text in rows:
            found.append((interrogator, next_id, received, relative, text.decode()))
            next_id += ID_STRIDE
    return sorted(found, key=lambda row: row[:2])


SORTED: list[Batch] = [
    (1_700_000_000_123, [(5, 30, b'{"a": 1}'), (-1, 10, b"null")]),
    (1_700_000_001_456, [(7, 20, b'"x"')]),
]
GOLDEN_SORTED = bytes.fromhex(
    "28b52ffd207025020004030103000000020000007b68e5cf8b01b06d010001ff08feff00ff010a0a0a006e756c"
    "6c00227822007b2261223a20317d0700385aebdc7006372dd80d0c06f6a1d401"
)
RAW: list[Batch] = [(1_700_000_000_123, [(INT64_MIN, 10, b"1"), (INT64_MAX, 20, b"2")])]
GOLDEN_RAW = bytes.fromhex(
    "28b52ffd203a3d0100e00002000000010000007b68e5cf8b01000000ff807f010a0a003100320300b8a3e47898"
    "762e01"
)


@pytest.mark.parametrize(
    ("golden", "batches"), [(GOLDEN_SORTED, SORTED), (GOLDEN_RAW, RAW)], ids=["sorted", "raw"]
)
def test_segments_of_the_first_version_are_decoded(golden: bytes, batches: list[Batch]) -> None:
    bounds, data = encode(batches)
    assert rows_of(decode_segment(bounds, golden)) == expected_rows(batches)
    # The frame may change with the zstd version; the content may not.
    assert decompress(data, 2**20) == decompress(golden, 2**20)


def test_the_encoding_of_bounds_is_stable() -> None:
    bounds, _ = encode(SORTED)
    assert bounds == SegmentBounds(
        515, 1027, 1_700_000_000_123, 1_700_000_001_456, -1, 7, 10, 30, 3, 3
    )
    assert bounds.to_bytes() == struct.pack(
        "<9qI", 515, 1027, 1_700_000_000_123, 1_700_000_001_456, -1, 7, 10, 30, 3, 3
    )
    assert SegmentBounds.from_bytes(bounds.to_bytes()) == bounds


@given(BATCHES)
def test_round_trip_sorts_by_interrogator_timestamp_and_id(batches: list[Batch]) -> None:
    bounds, data = encode(batches)
    assert rows_of(decode_segment(bounds, data)) == expected_rows(batches)


@given(BATCHES)
def test_bounds_are_those_of_the_readings(batches: list[Batch]) -> None:
    bounds, _ = encode(batches)
    assert_bounds(bounds, expected_rows(batches), shard=SHARD)


@pytest.mark.parametrize("step", [1, -1, 0, 7919])
def test_round_trip_of_thousands_of_readings(step: int) -> None:
    rows = [(i, (i * step) % 4099, b'{"epc": "%d"}' % i) for i in range(5000)]
    batches = [(1000 + i, rows[i : i + 500]) for i in range(0, 5000, 500)]
    bounds, data = encode(batches)
    assert rows_of(decode_segment(bounds, data)) == expected_rows(batches)


MOVED = [3, 0, 1, 2, 7, 5, 4, 6]
"""An order of batches that several connections cause."""


def moved_batches(each: int, order: Sequence[int]) -> list[Batch]:
    """Return batches whose readings are sorted, received in this order."""
    return [
        (1_700_000_000_000 + 7 * received, [
            (row, 1000 * row + row * row % 997, b'{"rssi": %d}' % (row * row % 89))
            for row in range(batch * each, (batch + 1) * each)
        ])
        for received, batch in enumerate(order)
    ]  # fmt: skip


@given(
    st.permutations(range(6)),
    st.lists(st.integers(85, 100), min_size=6, max_size=6),
    st.booleans(),
    st.sampled_from([RECEIPTS[0], 0, 1, RECEIPTS[-1]]),
)
def test_sorted_batches_in_any_order(
    order: list[int], counts: list[int], touching: bool, received: int
) -> None:
    begins = [sum(counts[:number]) - touching * number for number in range(6)]
    batches = [
        (received, [(row, begins[number] + row, b"%d" % row) for row in range(counts[number])])
        for number in order
    ]
    bounds, data = encode(batches)
    assert rows_of(decode_segment(bounds, data)) == expected_rows(batches)


def test_batches_in_another_order_take_as_many_bytes() -> None:
    (_, in_order), (bounds, moved) = (
        encode(moved_batches(1000, order)) for order in (sorted(MOVED), MOVED)
    )
    assert len(moved) - len(in_order) < bounds.count / 20
    # Every version can read the form that a compaction wrote first.
    merged = encode_merged(decode_segment(bounds, moved), SHARD, key_shared=True)
    assert merged[0] == bounds
    assert decompress(merged[1], 2**20) == decompress(moved, 2**20)


@pytest.mark.parametrize(("order", "most"), [(sorted(MOVED), 11.2), (MOVED, 11.2)])
def test_bytes_of_a_reading_of_the_benchmark(order: list[int], most: float) -> None:
    batches: list[Batch] = [
        (1_700_000_000_000 + received, [
            (time_of(number) - EPOCH_US, time_of(number), freeform(number).encode())
            for number in range(1000 * batch, 1000 * (batch + 1))
        ])
        for received, batch in enumerate(order)
    ]  # fmt: skip
    bounds, data = encode(batches)
    assert len(data) / bounds.count < most


def test_a_small_segment_may_be_merged_whatever_its_order() -> None:
    each = SMALL_READINGS // len(MOVED)
    assert may_share_key(encode(moved_batches(each, MOVED))[1])
    assert not may_share_key(encode(moved_batches(each - 1, MOVED))[1])


def test_a_segment_as_readings() -> None:
    bounds, data = encode(SORTED)
    assert decode_segment(bounds, data).readings() == [
        Reading("2023-11-14 22:13:20", "null", 771, 10, -1),
        Reading("2023-11-14 22:13:21", '"x"', 1027, 20, 7),
        Reading("2023-11-14 22:13:20", '{"a": 1}', 515, 30, 5),
    ]


@given(st.lists(st.integers(0, 2500), min_size=1, max_size=9).map(sorted), st.booleans())
def test_readings_have_their_second_of_receipt(moments: list[int], in_order: bool) -> None:
    each = SMALL_READINGS // len(moments) + 1
    order = range(len(moments)) if in_order else reversed(range(len(moments)))
    rows = moved_batches(each, list(order))
    batches = [(moment, of) for moment, (_, of) in zip(moments, rows, strict=True)]
    bounds, data = encode(batches)
    columns = decode_segment(bounds, data)
    assert columns.readings() == [
        Reading(f"1970-01-01 00:00:0{received // 1000}", text, number, interrogator, relative)
        for interrogator, number, received, relative, text in expected_rows(batches)
    ]
    shared = moments[0] // 1000 == moments[-1] // 1000
    assert columns.second == (moments[0] // 1000 if shared else None)


def test_empty_batches_change_nothing() -> None:
    batches = [(1, list[Row]()), *SORTED, (2, list[Row]())]
    assert encode(batches) == encode(SORTED)


@pytest.mark.parametrize("row", [(-1, 30, b'"x"'), (INT64_MAX, INT64_MIN, b"")])
def test_one_reading_is_encoded_like_many(row: Row) -> None:
    batches: list[Batch] = [(1_700_000_000_123, [row])]
    assert encode(batches) == encode([(1, []), *batches])
    for broken in (
        ReadingColumns(int64s([1]), int64s([1, 2]), b"1"),
        ReadingColumns(int64s([1]), int64s([1]), b"1\0002"),
    ):
        with pytest.raises(FormatError):
            encode_segment([(1, broken)], FIRST_ID, SHARD)


@pytest.mark.parametrize("freeform", [b"1", b"1\0002\0003", b""])
def test_columns_of_different_lengths_are_a_format_error(freeform: bytes) -> None:
    broken = ReadingColumns(int64s([1, 2]), int64s([1, 2]), freeform)
    with pytest.raises(FormatError):
        encode_segment([(1, broken)], FIRST_ID, SHARD)
    with pytest.raises(FormatError):
        encode_segment([(1, ReadingColumns(int64s([1]), int64s([1, 2]), b"1\0002"))], FIRST_ID, 0)


def test_a_segment_without_readings_is_a_format_error() -> None:
    with pytest.raises(FormatError):
        encode_segment([], FIRST_ID, SHARD)


@pytest.mark.parametrize("change", [{"count": 2}, {"count": 4}, {"last_id": 1026}, {"first_id": 3}])
def test_wrong_bounds_are_a_format_error(change: dict[str, int]) -> None:
    bounds, data = encode(SORTED)
    with pytest.raises(FormatError):
        decode_segment(dataclasses.replace(bounds, **change), data)


CONTENTS = [decompress(GOLDEN_SORTED, 2**20), decompress(GOLDEN_RAW, 2**20)]
BOUNDS = [encode(SORTED)[0], encode(RAW)[0]]


def opens_or_format_error(bounds: SegmentBounds, data: bytes) -> None:
    try:
        rows_of(decode_segment(bounds, data))
    except FormatError:
        return


@given(st.binary(max_size=200), st.integers(0, 1))
def test_random_bytes_are_a_segment_or_a_format_error(data: bytes, which: int) -> None:
    opens_or_format_error(BOUNDS[which], data)
    opens_or_format_error(BOUNDS[which], compress(data, SEGMENT_LEVEL))
    opens_or_format_error(BOUNDS[which], compress(CONTENTS[which][:9] + data, SEGMENT_LEVEL))


def test_a_changed_byte_is_a_segment_or_a_format_error() -> None:
    for bounds, content in zip(BOUNDS, CONTENTS, strict=True):
        for at in range(len(content)):
            for value in (0, 1, 2, 127, 128, 255):
                changed = content[:at] + bytes([value]) + content[at + 1 :]
                opens_or_format_error(bounds, compress(changed, SEGMENT_LEVEL))


@given(st.data(), st.integers(0, 1))
def test_a_changed_compressed_byte_is_a_segment_or_a_format_error(
    data: st.DataObject, which: int
) -> None:
    changed = bytearray([GOLDEN_SORTED, GOLDEN_RAW][which])
    for _ in range(data.draw(st.integers(1, 3))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    opens_or_format_error(BOUNDS[which], bytes(changed))


@given(st.data(), st.integers(0, 1))
def test_a_segment_that_lost_a_reading_is_a_format_error(data: st.DataObject, which: int) -> None:
    content = CONTENTS[which]
    length = data.draw(st.integers(0, len(content) - 1))
    assume(SEPARATOR in content[length:] or length < len(content) - len(b'{"a": 1}'))
    with pytest.raises(FormatError):
        decode_segment(BOUNDS[which], compress(content[:length], SEGMENT_LEVEL))


@pytest.mark.parametrize("order", [3, 255])
def test_an_unknown_order_is_a_format_error(order: int) -> None:
    for bounds, content in zip(BOUNDS, CONTENTS, strict=True):
        with pytest.raises(FormatError):
            decode_segment(bounds, compress(bytes([order]) + content[1:], SEGMENT_LEVEL))


@pytest.mark.parametrize(
    ("at", "patch"),
    [
        (5, struct.pack("<I", 2**32 - 1)),  # more runs than bytes
        (17, struct.pack("<I", 2**32 - 1)),  # a run longer than memory
        (17, struct.pack("<I", 1)),  # runs of fewer readings than there are
        (33, struct.pack("<I", 3)),  # a position out of range
        (45, b"\x07"),  # an unknown encoding of a column
        (len(CONTENTS[0]) - 1, b"\xff"),  # a text that is not ASCII
        (len(CONTENTS[0]) - 1, b"\x00"),  # one text more than readings
    ],
)
def test_each_part_of_a_segment_is_checked(at: int, patch: bytes) -> None:
    content = CONTENTS[0][:at] + patch + CONTENTS[0][at + len(patch) :]
    assert content != CONTENTS[0]
    with pytest.raises(FormatError):
        decode_segment(BOUNDS[0], compress(content, SEGMENT_LEVEL))


SOUND = SegmentBounds(512 + 3, 1024 + 3, 1000, 1000, 1, 3, 1, 3, SHARD, 3)


def test_content_without_a_defect_is_decoded() -> None:
    assert [row[-1] for row in rows_of(decode_segment(SOUND, content_of(SOUND)))] == ["0", "1", "2"]


@pytest.mark.parametrize("defect", DEFECTS.values(), ids=DEFECTS)
def test_a_defect_is_a_format_error_before_anything_is_read(defect: Defect) -> None:
    with pytest.raises(FormatError):
        decode_segment(*defect(SOUND))


@given(
    st.lists(
        st.sampled_from([INT64_MIN, -(2**62), -1, 0, 1, 2**62, INT64_MAX])
        | st.integers(INT64_MIN, INT64_MAX),
        min_size=2,
        max_size=8,
    )
)
def test_differences_are_stored_if_all_fit_in_64_bits(relative: list[int]) -> None:
    differences = [
        later - earlier for earlier, later in zip([0, *relative[:-1]], relative, strict=True)
    ]
    readings = ReadingColumns(
        int64s(relative), int64s([0] * len(relative)), SEPARATOR.join([b"1"] * len(relative))
    )
    content = decompress(encode_segment([(0, readings)], 256, 0)[1], 2**20)
    fits = all(INT64_MIN <= difference <= INT64_MAX for difference in differences)
    stored = int64s(differences if fits else relative).tobytes()
    planes = b"".join(stored[place::8] for place in range(8))
    assert content[21 : 22 + 8 * len(relative)] == bytes([fits]) + planes


@given(st.lists(TEXT, min_size=1, max_size=40), st.data())
def test_texts_are_split_in_runs(texts: list[bytes], data: st.DataObject) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segment, "RUN_CHARACTERS", data.draw(st.integers(0, 60)))
        found = Texts(b"head" + SEPARATOR.join(texts), 4, len(texts))
    expected = [text.decode() for text in texts]
    assert [found[place] for place in range(-len(texts), 0)] == expected
    places = range(len(texts))
    for _ in range(3):
        begin = data.draw(st.integers(0, len(texts)))
        end = data.draw(st.integers(begin, len(texts)))
        pieces = list(found.split(begin, end))
        assert [text for _, piece in pieces for text in piece] == expected[begin:end]
        assert [at for part, _ in pieces for at in places[part]] == list(places[begin:end])
        for descending in (False, True):
            runs = list(found.runs(begin, end, descending=descending))
            ordered = [(part, split_texts(run)) for part, run in runs]
            assert ordered[:: -1 if descending else 1] == pieces
    assert list(found) == expected


@given(st.lists(TEXT, min_size=1, max_size=40), st.integers(1, 45), st.integers(0, 60))
def test_a_wrong_number_of_texts_is_a_format_error(
    texts: list[bytes], count: int, run_characters: int
) -> None:
    assume(count != len(texts))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segment, "RUN_CHARACTERS", run_characters)
        with pytest.raises(FormatError):
            Texts(SEPARATOR.join(texts), 0, count)
