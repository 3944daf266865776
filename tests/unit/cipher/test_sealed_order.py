"""Sealed orders open with their transit key, and are never accepted as entries."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iot_cipher.encryption import Opener, Sealer
from iot_cipher.keyring import Keyring, parse_keyring
from iot_cipher.sealed_order import open_order, seal_order
from iot_models.errors import DecryptionError
from support.keys import CheckedKeys

RING = Keyring(2, {1: bytes(range(32)), 2: bytes(range(32, 64))}, bytes(32))
MakeText = Callable[..., str]
GOLDEN = bytes.fromhex(
    "01000000028a2e2f77db347177b66f795fba1c04b24db2371931cc8be2d78a14c1c36ae936be6b04b66998c6"
    "33279b946b17a14998a2ecf1d7"
)


@given(st.binary(max_size=500))
def test_round_trip(content: bytes) -> None:
    assert open_order(RING, seal_order(RING, content)) == content


def test_an_order_of_the_first_version_opens() -> None:
    assert open_order(RING, GOLDEN) == b"an order"


def test_salts_and_nonces_never_repeat() -> None:
    sealed = {seal_order(RING, b"") for _ in range(1000)}
    assert len({each[5:21] for each in sealed}) == len({each[21:33] for each in sealed}) == 1000


def test_any_changed_byte_is_a_decryption_error() -> None:
    for at in range(len(GOLDEN)):
        for bit in (1, 128):
            with pytest.raises(DecryptionError):
                open_order(RING, GOLDEN[:at] + bytes([GOLDEN[at] ^ bit]) + GOLDEN[at + 1 :])


def test_truncation_or_extension_is_a_decryption_error() -> None:
    for length in range(len(GOLDEN)):
        with pytest.raises(DecryptionError):
            open_order(RING, GOLDEN[:length])
    with pytest.raises(DecryptionError):
        open_order(RING, GOLDEN + b"\0")


@given(st.binary(max_size=200))
def test_random_bytes_are_a_decryption_error(data: bytes) -> None:
    for sealed in (data, GOLDEN[:5] + data):
        with pytest.raises(DecryptionError):
            open_order(RING, sealed)


def test_entries_and_orders_do_not_open_as_each_other() -> None:
    for shard in (0, 3):
        with pytest.raises(DecryptionError):
            open_order(RING, Sealer(CheckedKeys(lambda: RING)).seal(shard, b"content"))
        with pytest.raises(DecryptionError):
            Opener(lambda: RING).open(shard, seal_order(RING, b"content"))


def test_an_order_in_transit_opens_until_its_key_is_retired(keyring_text: MakeText) -> None:
    old = parse_keyring(keyring_text(primary=1, keys=(1,)))
    rotated = parse_keyring(keyring_text(primary=2, keys=(1, 2)))
    retired = parse_keyring(keyring_text(primary=2, keys=(2,)))
    sealed = seal_order(old, b"content")
    assert open_order(rotated, sealed) == b"content"
    with pytest.raises(DecryptionError, match="no master key 1"):
        open_order(retired, sealed)
