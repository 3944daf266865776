"""Decompression: exact, in time and memory that do not depend on how a body was compressed."""

import gzip
import random
import struct
import time
from collections.abc import Callable
from typing import Any

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from iot_api.http.decompression import GZIP, MAX_MEMBERS, ZSTD, Codec
from iot_models.errors import InvalidRequestError, TooLargeError
from support.counting import function_calls

LIMIT = 2**20
SKIPPABLE = struct.pack("<II", 0x184D2A5F, 5) + b"aside"
Pack = Callable[[bytes], bytes]
BOTH = pytest.mark.parametrize(
    ("codec", "pack"), [(GZIP, gzip.compress), (ZSTD, zstandard.compress)], ids=["gzip", "zstd"]
)


class Counted(bytes):
    """Bytes that count how many of them are copied by slices."""

    copied = 0

    def __getitem__(self, part: Any) -> Any:
        found = super().__getitem__(part)
        self.copied += len(found)
        return found


@BOTH
@given(parts=st.lists(st.binary(max_size=100).map(lambda data: data * 300), max_size=5))
def test_members_are_one_body(parts: list[bytes], codec: Codec, pack: Pack) -> None:
    whole = b"".join(parts)
    body = b"".join(map(pack, parts))
    assert codec.decompress(body, len(whole)) == whole
    if whole:
        with pytest.raises(TooLargeError) as raised:
            codec.decompress(body, len(whole) - 1)
        assert raised.value.details == {"limit": len(whole) - 1}


@BOTH
def test_a_body_with_the_most_members_is_accepted(codec: Codec, pack: Pack) -> None:
    empty = pack(b"")
    assert codec.decompress(empty * (MAX_MEMBERS - 1) + pack(b"[]"), LIMIT) == b"[]"
    with pytest.raises(InvalidRequestError, match=f"has more than 1000 {codec.members}"):
        codec.decompress(empty * (MAX_MEMBERS + 1), LIMIT)


@BOTH
def test_hundreds_of_thousands_of_members_are_refused_at_once(codec: Codec, pack: Pack) -> None:
    body = Counted(pack(b"") * 400_000)

    def refused() -> None:
        with pytest.raises(InvalidRequestError, match=codec.members):
            codec.decompress(body, LIMIT)

    assert function_calls(refused) < 20 * MAX_MEMBERS
    assert body.copied <= MAX_MEMBERS * codec.slice_bytes


@BOTH
def test_the_rest_of_a_body_is_not_copied_for_each_member(codec: Codec, pack: Pack) -> None:
    text = bytes(range(256)) * 4096
    body = Counted(pack(b"") * (MAX_MEMBERS - 1) + pack(text))
    assert codec.decompress(body, LIMIT) == text
    assert body.copied <= len(body) + MAX_MEMBERS * codec.slice_bytes


@BOTH
def test_other_greenlets_run_meanwhile(
    codec: Codec, pack: Pack, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns: list[float] = []
    monkeypatch.setattr(time, "sleep", turns.append)
    codec.decompress(pack(b"") * MAX_MEMBERS, LIMIT)
    assert len(turns) >= MAX_MEMBERS // 16
    turns.clear()
    codec.decompress(pack(random.Random(1).randbytes(8 * LIMIT)), 8 * LIMIT)
    assert len(turns) >= 8


@BOTH
def test_a_truncated_body_is_refused(codec: Codec, pack: Pack) -> None:
    first, second = pack(b"first" * 10), pack(b"second" * 10)
    body = first + second
    for length in range(1, len(body)):
        if length != len(first):
            with pytest.raises(InvalidRequestError):
                codec.decompress(body[:length], LIMIT)
    assert codec.decompress(first, LIMIT) == b"first" * 10
    assert codec.decompress(b"", LIMIT) == b""


@BOTH
@pytest.mark.parametrize("garbage", [b"x", b"{}", b"\x1f", b"(\xb5/\xfd", b"\1" * 100])
def test_garbage_after_a_member_is_refused(codec: Codec, pack: Pack, garbage: bytes) -> None:
    for body in (garbage, pack(b"[]") + garbage, pack(b"[]") + garbage + pack(b"[]")):
        with pytest.raises(InvalidRequestError):
            codec.decompress(body, LIMIT)


@pytest.mark.parametrize("zeros", [1, 7, 511, 100_000])
def test_zeros_may_follow_gzip(zeros: int) -> None:
    padding = bytes(zeros)
    packed = gzip.compress(b"[]")
    assert GZIP.decompress(packed + padding, LIMIT) == b"[]"
    assert GZIP.decompress(packed + padding + packed + padding, LIMIT) == b"[][]"
    for body in (padding, padding + packed, packed + padding + b"x"):
        with pytest.raises(InvalidRequestError):
            GZIP.decompress(body, LIMIT)
    with pytest.raises(InvalidRequestError):
        ZSTD.decompress(zstandard.compress(b"[]") + padding, LIMIT)


def test_a_member_over_the_limit_is_refused_early() -> None:
    for codec, pack in ((GZIP, gzip.compress), (ZSTD, zstandard.compress)):
        small, large = pack(b"[]"), pack(b" " * (20 * LIMIT))
        body = Counted(small + large + small * 100)
        with pytest.raises(TooLargeError):
            codec.decompress(body, LIMIT)
        assert body.copied <= len(small) + len(large) + 2 * codec.slice_bytes


def test_skippable_frames_of_zstd_are_skipped() -> None:
    frame = zstandard.compress(b"[]")
    long = struct.pack("<II", 0x184D2A50, 3000) + bytes(3000)
    for body in (
        SKIPPABLE + frame,
        frame + SKIPPABLE,
        frame + long,
        long + frame,
        SKIPPABLE * 9 + frame,
    ):
        assert ZSTD.decompress(body, LIMIT) == b"[]"
    assert ZSTD.decompress(SKIPPABLE, LIMIT) == b""
    with pytest.raises(InvalidRequestError, match="cut short"):
        ZSTD.decompress(frame + SKIPPABLE[:-1], LIMIT)
    with pytest.raises(InvalidRequestError, match=ZSTD.members):
        ZSTD.decompress(SKIPPABLE * 2000 + frame, LIMIT)


def test_a_zstd_window_above_the_limit_is_named() -> None:
    for log2, is_taken in ((27, True), (28, False)):
        parameters = zstandard.ZstdCompressionParameters(window_log=log2, write_content_size=False)
        stream = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
        body = stream.compress(b"[]") + stream.flush()
        if is_taken:
            assert ZSTD.decompress(body, LIMIT) == b"[]"
            continue
        with pytest.raises(InvalidRequestError, match=r"window .* at most 134217728"):
            ZSTD.decompress(body, LIMIT)


def test_grow_is_called_early_for_a_dense_body() -> None:
    told: list[int] = []
    for codec, pack in ((GZIP, gzip.compress), (ZSTD, zstandard.compress)):
        codec.decompress(pack(bytes(16 * 2**20)), 16 * 2**20, told.append)
        assert told[0] <= 2 * 2**20
        told.clear()
