"""A compressed frame decompresses to its content or raises FormatError."""

import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from iot_models.errors import FormatError
from iot_models.segment import decompress
from iot_models.segment_encoding import (
    ENTRY_LEVEL,
    MERGED_LEVEL,
    SEGMENT_LEVEL,
    compress,
    decompress_head,
)

LEVELS = st.sampled_from([ENTRY_LEVEL, SEGMENT_LEVEL, MERGED_LEVEL])
LIMIT = 2**20


@given(st.binary(max_size=2000), LEVELS)
def test_round_trip(data: bytes, level: int) -> None:
    assert decompress(compress(data, level), LIMIT) == data


@given(st.binary())
def test_random_bytes_are_a_format_error(data: bytes) -> None:
    # Random bytes can be a valid frame; all others must raise FormatError.
    try:
        decompress(data, LIMIT)
    except FormatError:
        return
    assert zstandard.frame_content_size(data) >= 0


@given(st.data(), st.binary(min_size=1, max_size=500), LEVELS)
def test_a_truncated_frame_is_a_format_error(
    data: st.DataObject, content: bytes, level: int
) -> None:
    frame = compress(content, level)
    cut = data.draw(st.integers(0, len(frame) - 1))
    with pytest.raises(FormatError):
        decompress(frame[:cut], LIMIT)


def test_bytes_after_the_frame_are_a_format_error() -> None:
    with pytest.raises(FormatError):
        decompress(compress(b"x", SEGMENT_LEVEL) + b"y", LIMIT)


def test_content_larger_than_the_limit_is_refused() -> None:
    frame = compress(bytes(1000), SEGMENT_LEVEL)
    assert decompress(frame, 1000) == bytes(1000)
    with pytest.raises(FormatError, match="larger than 999 bytes"):
        decompress(frame, 999)


def test_a_frame_without_its_content_size_is_a_format_error() -> None:
    frame = zstandard.ZstdCompressor(write_content_size=False).compress(b"x" * 100)
    with pytest.raises(FormatError):
        decompress(frame, LIMIT)


def test_no_memory_is_allocated_for_an_implausible_size() -> None:
    claim = b"\x28\xb5\x2f\xfd\xe0" + (2**62).to_bytes(8, "little") + b"\x01\x00\x00"
    assert zstandard.frame_content_size(claim) == 2**62
    with pytest.raises(FormatError):
        decompress(claim, 2**63)


def test_content_of_the_best_ratio_is_accepted() -> None:
    zeros = bytes(64 * 2**20)
    for level in (ENTRY_LEVEL, SEGMENT_LEVEL):
        assert decompress(compress(zeros, level), len(zeros)) == zeros


@given(st.binary(max_size=2000), LEVELS, st.integers(0, 300))
def test_the_head_is_a_prefix_of_the_content(data: bytes, level: int, size: int) -> None:
    assert decompress_head(compress(data, level), size) == data[:size]


@pytest.mark.parametrize("level", [ENTRY_LEVEL, SEGMENT_LEVEL, MERGED_LEVEL])
def test_the_head_of_large_content_takes_little_memory(level: int) -> None:
    frame = compress(bytes(range(250)) * 2**18, level)
    tracemalloc.start()
    try:
        assert decompress_head(frame, 9) == bytes(range(9))
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "data", [b"", b"no frame", b"\x28\xb5\x2f\xfd\xe0" + (2**62).to_bytes(8, "little") + b"\1\0\0"]
)
def test_the_head_of_other_bytes_is_empty_or_a_format_error(data: bytes) -> None:
    try:
        assert decompress_head(data, 9) == b""
    except FormatError:
        return


def test_threads_compress_independently() -> None:
    def there_and_back(seed: int) -> bool:
        data = bytes([seed]) * 50_000
        return all(decompress(compress(data, SEGMENT_LEVEL), LIMIT) == data for _ in range(20))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(there_and_back, range(32)))
