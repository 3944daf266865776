"""Entries: the format is stable, and invalid bytes are refused."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iot_cipher.encryption import COMPRESS_FROM, Entry, decode_entry
from iot_models.errors import FormatError
from iot_models.reading import INT64_MAX, INT64_MIN, ReadingColumns, int64s
from support.segment_rows import reading_columns

HEADER_BYTES = 78
INT64 = st.integers(INT64_MIN, INT64_MAX)
TEXT = st.binary(max_size=30).map(lambda text: bytes(1 + byte % 127 for byte in text))
ROWS = st.lists(st.tuples(INT64, INT64, TEXT), max_size=60)


def entry_of(readings: ReadingColumns) -> Entry:
    return Entry(
        vault_id=bytes(range(16)),
        salt=bytes(range(16, 32)),
        chunk_key=bytes(range(32, 64)),
        sealed_at=1_700_000_000_123,
        readings=readings,
    )


THREE = reading_columns([(5, 30, b'{"a": 1}'), (-1, -10, b"null"), (7, 20, b'"x"')])

GOLDEN_PLAIN = bytes.fromhex(
    "0100000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20212223242526272829"
    "2a2b2c2d2e2f303132333435363738393a3b3c3d3e3f7b68e5cf8b010000030000000500000000000000ffff"
    "ffffffffffff07000000000000001e00000000000000f6ffffffffffffff14000000000000007b2261223a20"
    "317d006e756c6c00227822"
)
GOLDEN_COMPRESSED = bytes.fromhex(
    "0101000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20212223242526272829"
    "2a2b2c2d2e2f303132333435363738393a3b3c3d3e3f7b68e5cf8b0100004000000028b52ffd603f05250600"
    "66502a1af0a4db0ce44028079e8167e019ce0533ff33ff5de77de7fdb3142100220021004543413f3d3b3937"
    "3533312f2d2b29272523211f1d1b19171513110f0d0b0907070907050604d8cbbbab9b8b7b6b5b4b3b2b1b0b"
    "fbeadacabaaa9a8a7a6a5a4afa1d0549bfa3a2a1a09f9e9d9c9b9a999897969594939291908f8e8d8c8b8a89"
    "888786850532d1ee1bf8080a0c08b09777573717f7d6b69676563616f6d5b59575553515f5d4b4148080a810"
    "f2bb01e0d712f0afc7feffdf013478000338ac0d"
)


def test_entries_of_the_first_version_are_decoded() -> None:
    assert decode_entry(GOLDEN_PLAIN) == entry_of(THREE)
    assert entry_of(THREE).encode() == GOLDEN_PLAIN
    many = reading_columns([(i, i, b'{"n": 1}') for i in range(64)])
    assert decode_entry(GOLDEN_COMPRESSED) == entry_of(many)


IMPORTED = ReadingColumns(
    THREE.relative, THREE.interrogator, THREE.freeform, int64s([1_395_140_359_000] * 2 + [0])
)


def test_an_entry_of_format_2_has_times_of_receipt() -> None:
    data = entry_of(IMPORTED).encode()
    assert data[0] == 2
    assert decode_entry(data) == entry_of(IMPORTED)
    times = HEADER_BYTES + 3 * 8 * 2
    received = struct.pack("<3q", 1_395_140_359_000, 1_395_140_359_000, 0)
    assert data == b"\2" + GOLDEN_PLAIN[1:times] + received + GOLDEN_PLAIN[times:]
    for length in range(times + len(received)):
        with pytest.raises(FormatError):
            decode_entry(data[:length])


@given(ROWS, st.binary(min_size=16, max_size=16), st.binary(min_size=32, max_size=32), INT64)
def test_round_trip(
    rows: list[tuple[int, int, bytes]], name: bytes, key: bytes, sealed_at: int
) -> None:
    entry = Entry(name, name[::-1], key, sealed_at, reading_columns(rows))
    assert decode_entry(entry.encode()) == entry


def test_round_trip_of_thousands_of_readings() -> None:
    entry = entry_of(reading_columns([(i * 1000, -i, b'{"epc": "%d"}' % i) for i in range(5000)]))
    data = entry.encode()
    assert decode_entry(data) == entry
    assert len(data) < 5000 * 16  # the readings are compressed


def test_readings_are_compressed_from_a_minimum_size() -> None:
    sizes = []
    for length in (COMPRESS_FROM - 17, COMPRESS_FROM - 16):
        entry = entry_of(reading_columns([(0, 0, b"x" * length)]))
        assert decode_entry(entry.encode()) == entry
        sizes.append(len(entry.encode()) - HEADER_BYTES)
    assert sizes[0] == COMPRESS_FROM - 1
    assert sizes[1] < 100


@given(st.integers(0, len(GOLDEN_PLAIN) - 1))
def test_a_truncated_entry_never_loses_a_reading(length: int) -> None:
    # Only a truncated last text decodes; the seal of the entry detects that.
    texts = len(GOLDEN_PLAIN) - len(b'"x"')
    if length >= texts:
        assert len(decode_entry(GOLDEN_PLAIN[:length]).readings) == 3
    else:
        with pytest.raises(FormatError):
            decode_entry(GOLDEN_PLAIN[:length])


@given(st.integers(0, len(GOLDEN_COMPRESSED) - 1))
def test_a_truncated_compressed_entry_is_a_format_error(length: int) -> None:
    with pytest.raises(FormatError):
        decode_entry(GOLDEN_COMPRESSED[:length])


@pytest.mark.parametrize("version", [0, 3, 255])
def test_another_version_is_a_format_error(version: int) -> None:
    with pytest.raises(FormatError):
        decode_entry(bytes([version]) + GOLDEN_PLAIN[1:])


@pytest.mark.parametrize("packing", [2, 255])
def test_an_unknown_packing_is_a_format_error(packing: int) -> None:
    with pytest.raises(FormatError):
        decode_entry(GOLDEN_PLAIN[:1] + bytes([packing]) + GOLDEN_PLAIN[2:])


@pytest.mark.parametrize("freeform", [b"1\0002", b"1\0002\0003\0004", b"", "1\0é\0003".encode()])
def test_texts_that_do_not_match_the_readings_are_a_format_error(freeform: bytes) -> None:
    broken = ReadingColumns(THREE.relative, THREE.interrogator, freeform)
    with pytest.raises(FormatError):
        decode_entry(entry_of(broken).encode())


@given(st.binary(max_size=200))
def test_random_bytes_are_an_entry_or_a_format_error(tail: bytes) -> None:
    for data in (tail, GOLDEN_PLAIN[:1] + tail, GOLDEN_PLAIN[:HEADER_BYTES] + tail):
        try:
            decode_entry(data)
        except FormatError:
            continue


@given(st.data(), st.sampled_from([GOLDEN_PLAIN, GOLDEN_COMPRESSED]), st.integers(1, 255))
def test_a_changed_byte_is_an_entry_or_a_format_error(
    data: st.DataObject, golden: bytes, change: int
) -> None:
    at = data.draw(st.integers(0, len(golden) - 1))
    changed = bytearray(golden)
    changed[at] ^= change
    try:
        decode_entry(bytes(changed))
    except FormatError:
        return


def test_a_huge_count_is_a_format_error() -> None:
    with pytest.raises(FormatError):
        decode_entry(GOLDEN_PLAIN[:74] + struct.pack("<I", 2**32 - 1) + GOLDEN_PLAIN[78:])


def test_repr_shows_neither_key_nor_readings() -> None:
    shown = repr(entry_of(THREE))
    assert "chunk_key" not in shown
    assert "readings" not in shown
    assert repr(bytes(range(32, 64)))[2:-1] not in shown
