"""A link of the audit log's chain belongs to one record in one place."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iot_cipher.audit_link import ChainedRecord, link_matches, make_link
from iot_cipher.chain_keys import BEFORE_FIRST, LINK_BYTES, RetiredKey
from iot_cipher.keyring import Keyring
from iot_models.errors import DecryptionError

ONE = Keyring(1, {1: b"1" * 32}, b"p" * 32)
TWO = Keyring(2, {1: b"1" * 32, 2: b"2" * 32}, b"p" * 32)
RECORD = ChainedRecord(1, 7, struct.pack(">q", 845_000_000_000_000), b"a line")
GOLDEN_1 = "0100000001b6af27e9ea2379e9f0d66438c76f262c28c29b49681b418a0c439c11c9f4fb9a"
GOLDEN = "020000000178c468c6081594f1bd83fe21d11d9e759f127a686516cee4322942be1a210d1d"


def test_a_link_is_stable() -> None:
    """The format is that of docs/formats.md."""
    assert make_link(ONE, BEFORE_FIRST, RECORD).hex() == GOLDEN


def test_a_link_of_version_1_covers_the_sealed_bytes() -> None:
    assert link_matches(
        ONE, bytes.fromhex(GOLDEN_1), BEFORE_FIRST, RECORD._replace(content=b"sealed")
    )
    assert not link_matches(ONE, bytes.fromhex(GOLDEN_1), BEFORE_FIRST, RECORD)


@given(st.integers(0, LINK_BYTES - 1), st.integers(1, 255))
def test_no_byte_of_a_link_can_change(place: int, change: int) -> None:
    link = bytearray(make_link(ONE, BEFORE_FIRST, RECORD))
    assert link_matches(ONE, bytes(link), BEFORE_FIRST, RECORD)
    link[place] ^= change
    try:
        assert not link_matches(ONE, bytes(link), BEFORE_FIRST, RECORD)
    except DecryptionError as error:
        assert "master key" in str(error)  # noqa: PT017 -- only some bytes name another key


@pytest.mark.parametrize("length", [0, 1, 4, LINK_BYTES - 1, LINK_BYTES + 1])
def test_no_link_has_another_length(length: int) -> None:
    """Whoever can write to Postgres may truncate a link."""
    link = make_link(ONE, BEFORE_FIRST, RECORD)
    assert not link_matches(ONE, (link + b"?")[:length], BEFORE_FIRST, RECORD)


INT64 = st.integers(-(2**63), 2**63 - 1)
RECORDS = st.builds(
    ChainedRecord, INT64, INT64, st.binary(min_size=8, max_size=8), st.binary(max_size=40)
)


@given(RECORDS, RECORDS, st.binary(min_size=LINK_BYTES, max_size=LINK_BYTES))
def test_another_record_or_place_does_not_match(
    first: ChainedRecord, second: ChainedRecord, previous: bytes
) -> None:
    link = make_link(TWO, previous, first)
    assert link_matches(TWO, link, previous, first)
    assert link_matches(TWO, link, previous, second) == (first == second)
    assert link_matches(TWO, link, BEFORE_FIRST, first) == (previous == BEFORE_FIRST)


def test_a_chain_goes_on_under_another_primary_key() -> None:
    first = make_link(ONE, BEFORE_FIRST, RECORD)
    second = make_link(TWO, first, RECORD)
    assert link_matches(TWO, first, BEFORE_FIRST, RECORD)
    assert link_matches(TWO, second, first, RECORD)
    with pytest.raises(DecryptionError, match="no master key 2"):
        link_matches(ONE, second, first, RECORD)


def test_the_chain_key_of_a_retired_key_checks_links_and_decrypts_nothing() -> None:
    first = make_link(ONE, BEFORE_FIRST, RECORD)
    retired = {1: RetiredKey(ONE.chain_key(1), 1, first)}
    later = Keyring(2, {2: b"2" * 32}, b"p" * 32, retired)
    assert link_matches(later, first, BEFORE_FIRST, RECORD)
    with pytest.raises(DecryptionError, match="no master key 1"):
        later.audit_key(1)
