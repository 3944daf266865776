"""Compaction orders are encoded and decoded, and invalid bytes are refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iot_models.compaction_order import CompactionOrder, Source, Target, decode_order
from iot_models.errors import FormatError
from iot_models.reading import INT64_MAX, INT64_MIN

INT64 = st.integers(INT64_MIN, INT64_MAX)
SALT, KEY = st.binary(min_size=16, max_size=16), st.binary(min_size=32, max_size=32)
SOURCES = st.lists(st.builds(Source, INT64, INT64, SALT, KEY), max_size=20).map(tuple)
TARGETS = st.lists(st.builds(Target, SALT, KEY), max_size=5, unique_by=lambda each: each.salt).map(
    tuple
)
ORDERS = st.builds(CompactionOrder, SALT, TARGETS, SOURCES)

ORDER = CompactionOrder(
    bytes(range(16)),
    (Target(bytes(range(16, 32)), bytes(range(32, 64))), Target(b"\5" * 16, b"\6" * 32)),
    (Source(515, -1, b"\1" * 16, b"\2" * 32), Source(2**53, 2**41, b"\3" * 16, b"\4" * 32)),
)
GOLDEN_VAULT = "000102030405060708090a0b0c0d0e0f"
GOLDEN_TARGET = bytes(range(16, 64)).hex()
GOLDEN_SOURCES = (
    "0302000000000000ffffffffffffffff" + "01" * 16 + "02" * 32
    + "00000000000020000000000000020000" + "03" * 16 + "04" * 32
)  # fmt: skip
GOLDEN = bytes.fromhex(
    "02" + GOLDEN_VAULT + "0200000002000000" + GOLDEN_TARGET + "05" * 16 + "06" * 32
    + GOLDEN_SOURCES
)  # fmt: skip
GOLDEN_ONE_KEY = bytes.fromhex("01" + GOLDEN_VAULT + GOLDEN_TARGET + "02000000" + GOLDEN_SOURCES)


@given(ORDERS)
def test_round_trip(order: CompactionOrder) -> None:
    assert decode_order(order.encode()) == order


def test_an_order_of_the_current_format_is_decoded() -> None:
    assert ORDER.encode() == GOLDEN
    assert decode_order(GOLDEN) == ORDER


def test_an_order_of_the_older_format_is_decoded() -> None:
    expected = CompactionOrder(ORDER.vault_id, ORDER.targets[:1], ORDER.sources, one_key=True)
    assert decode_order(GOLDEN_ONE_KEY) == expected


def test_a_duplicate_key_is_a_format_error() -> None:
    twice = CompactionOrder(ORDER.vault_id, ORDER.targets[:1] * 2, ORDER.sources)
    with pytest.raises(FormatError, match="twice"):
        decode_order(twice.encode())


def test_repr_shows_no_key() -> None:
    shown = repr(ORDER)
    assert repr(ORDER.targets[0].chunk_key) not in shown
    assert repr(ORDER.sources[0].chunk_key) not in shown


@given(st.binary(max_size=300))
def test_random_bytes_are_an_order_or_a_format_error(data: bytes) -> None:
    for each in (data, b"\1" + data, b"\2" + data):
        try:
            decode_order(each)
        except FormatError:
            continue


@pytest.mark.parametrize("golden", [GOLDEN, GOLDEN_ONE_KEY], ids=["format 2", "format 1"])
def test_a_truncated_or_extended_order_is_a_format_error(golden: bytes) -> None:
    for length in range(len(golden)):
        with pytest.raises(FormatError):
            decode_order(golden[:length])
    for data in (golden + b"\0", b"\0" + golden[1:], b"\3" + golden[1:]):
        with pytest.raises(FormatError):
            decode_order(data)
