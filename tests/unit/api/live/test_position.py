"""Positions: what they include, and that no text breaks the server."""

from base64 import urlsafe_b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iot_api.live.position import LivePosition, _checksum, decode_position, encode_position
from iot_models.errors import InvalidRequestError
from iot_models.names import MAX_SHARDS

VAULT = bytes(16)
IDS = st.integers(0, 2**53)


@given(st.integers(0, 2**45), IDS, st.dictionaries(st.integers(0, MAX_SHARDS - 1), IDS))
def test_a_position_is_encoded_and_decoded(since: int, floor: int, ids: dict[int, int]) -> None:
    position = LivePosition(since, floor, ids)
    assert decode_position("after", encode_position(position, VAULT), VAULT) == position


def test_all_shards_fit_into_a_header() -> None:
    position = LivePosition(2**41, 2**53, dict.fromkeys(range(MAX_SHARDS), 2**53 - 1))
    text = encode_position(position, VAULT)
    assert decode_position("after", text, VAULT) == position
    assert len(text) < 4096


@given(st.binary(max_size=60))
def test_a_forged_position_is_refused_or_harmless(body: bytes) -> None:
    forged = urlsafe_b64encode(body + _checksum(body, VAULT)).rstrip(b"=").decode()
    try:
        position = decode_position("after", forged, VAULT)
    except InvalidRequestError:
        return
    assert 0 <= position.since < 2**48
    assert min(position.floor, *position.ids.values(), position.floor) >= 0


@pytest.mark.parametrize("text", ["", "x", "ä", "A" * 100, "AAAA\n"])
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(InvalidRequestError, match="after: no live stream"):
        decode_position("after", text, VAULT)


def test_a_position_belongs_to_one_vault() -> None:
    text = encode_position(LivePosition(1, 2, {3: 4}), VAULT)
    with pytest.raises(InvalidRequestError):
        decode_position("after", text, bytes(15) + b"\1")


def test_positions_never_move_back() -> None:
    position = LivePosition(5, 10, {0: 20, 1: 3})
    assert position.id_of(7) == 10, "a new shard begins above all ids that were used"
    later = position.advanced({0: 15, 1: 9, 7: 8}, since=2)
    assert later == LivePosition(5, 10, {0: 20, 1: 9, 7: 10})
    assert later.includes(position)
    assert not position.includes(later)
