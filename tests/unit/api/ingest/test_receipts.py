"""Receipts: the names of entries as text that fits into a request line."""

import base64
import random
import struct

import pytest

from iot_api.ingest.receipts import decode_receipt, encode_list, encode_receipt
from iot_cipher.encryption import EntryName
from iot_models.errors import InvalidRequestError
from iot_models.names import MAX_SHARDS

LONGEST = 3200
"""gunicorn accepts 4094 bytes of a request line. A proxy's prefix must fit in too."""


def entries(count: int, sessions: int = 1, greatest: int = 2**63 - 1) -> list[EntryName]:
    """Return names of different shards, in no order."""
    chance = random.Random(count)
    shards = chance.sample(range(MAX_SHARDS), count)
    names = [bytes([number]) * 16 for number in range(sessions)]
    return [
        EntryName(shard, chance.choice(names), chance.randrange(1, greatest + 1))
        for shard in shards
    ]


@pytest.mark.parametrize("count", [1, 2, 64, 65, 255, 256])
@pytest.mark.parametrize("sessions", [1, 3])
@pytest.mark.parametrize("greatest", [1, 255, 256, 2**63 - 1])
def test_a_receipt_is_short_and_holds_every_name(count: int, sessions: int, greatest: int) -> None:
    made = entries(count, sessions, greatest)
    receipt = encode_receipt(made)
    assert len(receipt) <= LONGEST
    assert set(decode_receipt(receipt)) == set(made)
    assert len(decode_receipt(receipt)) == count
    assert decode_receipt(encode_list(made)) == made


def test_a_session_may_have_two_names_of_each_shard() -> None:
    """Those of an earlier attempt, and those of the repeated request."""
    made = entries(MAX_SHARDS) + [EntryName(shard, bytes(16), shard) for shard in range(MAX_SHARDS)]
    assert sorted(decode_receipt(encode_receipt(made))) == sorted(made)


@pytest.mark.parametrize(
    ("count", "shards", "others"),
    [(400, 256, 0), (400, 256, 0.5), (1000, 8, 0.5), (1000, 1, 0.5), (10_000, 256, 0)],
)
def test_a_receipt_of_many_entries_is_short(count: int, shards: int, others: float) -> None:
    """Entries of other requests may have numbers between those of the request."""
    chance, numbers = random.Random(count), [10_000] * shards
    made: list[EntryName] = []
    while len(made) < count:
        shard = chance.randrange(shards)
        numbers[shard] += 1
        if chance.random() >= others:
            made.append(EntryName(shard, b"s" * 16, numbers[shard]))
    receipt = encode_receipt(made)
    assert len(receipt) <= LONGEST
    assert sorted(decode_receipt(receipt)) == sorted(made)


def test_grouped_receipts_without_bitmaps_are_read() -> None:
    """Every receipt of more than 64 names had this form before bitmaps were added."""
    text = base64.urlsafe_b64encode(b"\2" + b"s" * 16 + b"\1\2" + b"\3\4" + b"\0\5\1\0")
    names = [EntryName(3, b"s" * 16, 5), EntryName(4, b"s" * 16, 256)]
    assert decode_receipt(text.decode()) == names


@pytest.mark.parametrize("count", [1, 64, 256])
def test_the_receipts_of_version_0_1_are_read(count: int) -> None:
    """Remembered answers of an Idempotency-Key hold such receipts of any length."""
    made = entries(count)
    packed = b"".join(struct.pack(">H16sQ", *name) for name in made)
    text = base64.urlsafe_b64encode(packed).decode()
    assert decode_receipt(text) == made
    assert encode_list(made) == text


@pytest.mark.parametrize("count", [1, 64])
def test_version_0_1_reads_the_receipts_of_few_entries(count: int) -> None:
    """While both versions run, a client may send a receipt to either."""
    made = entries(count)
    assert encode_receipt(made) == encode_list(made)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\2",
        b"\2" + bytes(17),
        b"\2" + bytes(16) + b"\0\0" + bytes(1),
        b"\2" + bytes(16) + b"\0\x09" + bytes(10),
        b"\2" + bytes(16) + b"\xff\x08" + bytes(100),
        b"\2" + bytes(16) + b"\0\x08" + bytes(1) + b"\xff" * 8,
        b"\2" + bytes(16) + b"\0\x80\0",
        b"\2" + bytes(16) + b"\0\x81\0\1" + b"\x09" + bytes(9),
        b"\2" + bytes(16) + b"\0\x88\0\x7f" + b"\xff" * 7 + b"\1\1",
        b"\3" + bytes(16) + b"\0\1\0\1",
    ],
)
def test_an_invalid_receipt_is_refused(content: bytes) -> None:
    with pytest.raises(InvalidRequestError, match="the path has no valid receipt"):
        decode_receipt(base64.urlsafe_b64encode(content).decode())


def test_a_truncated_receipt_is_refused() -> None:
    more = [EntryName(9, bytes(16), 2**40 + number) for number in range(5)]
    whole = base64.urlsafe_b64decode(encode_receipt(entries(100) + more))
    for end in range(1, len(whole)):
        with pytest.raises(InvalidRequestError):
            decode_receipt(base64.urlsafe_b64encode(whole[:end]).decode())
