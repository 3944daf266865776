"""Compaction orders: round trips, and bytes that are none."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iot_models.compaction_order import CompactionOrder, Source, decode_order
from iot_models.errors import FormatError
from iot_models.reading import INT64_MAX, INT64_MIN

INT64 = st.integers(INT64_MIN, INT64_MAX)
SALT, KEY = st.binary(min_size=16, max_size=16), st.binary(min_size=32, max_size=32)
SOURCES = st.lists(st.builds(Source, INT64, INT64, SALT, KEY), max_size=20).map(tuple)
ORDERS = st.builds(CompactionOrder, SALT, SALT, KEY, SOURCES)

ORDER = CompactionOrder(
    bytes(range(16)),
    bytes(range(16, 32)),
    bytes(range(32, 64)),
    (Source(515, -1, b"\1" * 16, b"\2" * 32), Source(2**53, 2**41, b"\3" * 16, b"\4" * 32)),
)
GOLDEN = bytes.fromhex(
    "01000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f202122232425262728292a2b2c"
    "2d2e2f303132333435363738393a3b3c3d3e3f020000000302000000000000ffffffffffffffff"
    + "01" * 16 + "02" * 32 + "00000000000020000000000000020000" + "03" * 16 + "04" * 32
)  # fmt: skip


@given(ORDERS)
def test_round_trip(order: CompactionOrder) -> None:
    assert decode_order(order.encode()) == order


def test_orders_written_once_are_read_for_ever() -> None:
    assert ORDER.encode() == GOLDEN
    assert decode_order(GOLDEN) == ORDER


def test_nothing_prints_a_key() -> None:
    shown = repr(ORDER)
    assert repr(ORDER.chunk_key) not in shown
    assert repr(ORDER.sources[0].chunk_key) not in shown


@given(st.binary(max_size=300))
def test_any_bytes_are_an_order_or_a_format_error(data: bytes) -> None:
    for each in (data, b"\1" + data):
        try:
            decode_order(each)
        except FormatError:
            continue


def test_an_order_cut_short_or_with_more_behind_it_is_a_format_error() -> None:
    for length in range(len(GOLDEN)):
        with pytest.raises(FormatError):
            decode_order(GOLDEN[:length])
    with pytest.raises(FormatError):
        decode_order(GOLDEN + b"\0")
    with pytest.raises(FormatError):
        decode_order(b"\2" + GOLDEN[1:])
