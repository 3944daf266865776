"""The old program's cipher, checked against a file that the old program wrote."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iot_tools.transfer.legacy_cipher import LegacyCipher

FILE = Path(__file__).parents[3] / "fixtures" / "legacy" / "encpassword.db"
CIPHER = LegacyCipher("encpassword")


def stored() -> list[tuple[int, bytes]]:
    with closing(sqlite3.connect(FILE)) as database:
        return database.execute("SELECT interrogator_timestamp, freeform FROM IOTD").fetchall()


def test_each_stored_value_is_decrypted_and_encrypted_again() -> None:
    times = [time for time, _ in stored()]
    assert len(times) == 65
    assert -1 in times, "a reading without times"
    assert max(times) > 10**16, "a counter of more than 16 digits"
    for time, value in stored():
        text = CIPHER.decrypt(value, time)
        assert text is not None
        json.loads(text)
        assert CIPHER.encrypt(text, time) == value


def test_another_password_decrypts_nothing() -> None:
    other = LegacyCipher("wrong")
    assert [other.decrypt(value, time) for time, value in stored()].count(None) >= 60


@given(st.binary(max_size=80), st.integers(-(2**63), 2**63 - 1))
def test_round_trip(text: bytes, time: int) -> None:
    assert CIPHER.decrypt(CIPHER.encrypt(text, time), time) == text


@pytest.mark.parametrize("value", [b"", b"A", b"*", b"AAAA", "é", b"\xff" * 16])
def test_values_that_are_not_encrypted(value: bytes | str) -> None:
    assert CIPHER.decrypt(value, 1) is None
