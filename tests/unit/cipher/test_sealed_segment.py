"""Encrypted segments are bound to their vault and their bounds."""

import dataclasses
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iot_cipher.encryption import OpenVault, decrypt_segment, encrypt_segment
from iot_cipher.keyring import Keyring
from iot_models.errors import DecryptionError
from iot_models.segment import SegmentBounds

SALT = bytes(range(16))
VAULT = OpenVault(uuid.UUID(int=5), bytes(range(32)))
BOUNDS = SegmentBounds(515, 1027, 1_700_000_000_123, 1_700_000_001_456, -1, 7, 10, 30, 3, 3)
CONTENT = b"an encoded segment"


def payload_of(content: bytes = CONTENT) -> bytes:
    return encrypt_segment(VAULT.vault_id, SALT, VAULT.chunk_key(SALT), BOUNDS, content)


@given(st.binary(max_size=2000))
def test_round_trip(content: bytes) -> None:
    assert decrypt_segment(VAULT, BOUNDS, payload_of(content)) == content


def test_the_header_of_a_payload() -> None:
    assert payload_of()[:17] == b"\1" + SALT
    assert len(payload_of()) == 1 + 16 + 12 + len(CONTENT) + 16


def test_any_changed_byte_is_a_decryption_error() -> None:
    payload = payload_of()
    for at in range(len(payload)):
        for bit in (1, 2, 128):
            with pytest.raises(DecryptionError):
                decrypt_segment(
                    VAULT, BOUNDS, payload[:at] + bytes([payload[at] ^ bit]) + payload[at + 1 :]
                )


def test_truncation_or_extension_is_a_decryption_error() -> None:
    payload = payload_of()
    for length in range(len(payload)):
        with pytest.raises(DecryptionError):
            decrypt_segment(VAULT, BOUNDS, payload[:length])
    with pytest.raises(DecryptionError):
        decrypt_segment(VAULT, BOUNDS, payload + b"\0")


@pytest.mark.parametrize("name", [each.name for each in dataclasses.fields(SegmentBounds)])
def test_a_changed_bound_is_a_decryption_error(name: str) -> None:
    payload = payload_of()
    was = getattr(BOUNDS, name)
    for value in (was + 1, was - 1, 0, -5, 2**31, 2**64, -(2**70)):
        with pytest.raises(DecryptionError):
            decrypt_segment(VAULT, dataclasses.replace(BOUNDS, **{name: value}), payload)


def test_a_segment_moved_to_another_vault_is_a_decryption_error() -> None:
    payload = payload_of()
    for other in (
        OpenVault(uuid.UUID(int=6), bytes(range(32))),  # the same key, another id
        OpenVault(uuid.UUID(int=5), bytes(range(1, 33))),  # the same id, another key
    ):
        with pytest.raises(DecryptionError):
            decrypt_segment(other, BOUNDS, payload)


def test_the_salt_of_another_segment_is_a_decryption_error() -> None:
    payload = payload_of()
    with pytest.raises(DecryptionError):
        decrypt_segment(VAULT, BOUNDS, payload[:1] + SALT[::-1] + payload[17:])


def test_the_chunk_key_of_one_segment_opens_no_other() -> None:
    # The segment carries the salt of one entry and is encrypted with the chunk key of another.
    other_salt = SALT[::-1]
    payload = encrypt_segment(VAULT.vault_id, other_salt, VAULT.chunk_key(SALT), BOUNDS, CONTENT)
    with pytest.raises(DecryptionError):
        decrypt_segment(VAULT, BOUNDS, payload)


@pytest.mark.parametrize("payload", [b"", b"\1", b"\2" + bytes(60), bytes(17), b"\1" + bytes(17)])
def test_a_malformed_payload_is_a_decryption_error(payload: bytes) -> None:
    with pytest.raises(DecryptionError) as caught:
        decrypt_segment(VAULT, BOUNDS, payload)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None or caught.value.__suppress_context__


def test_an_unknown_version_is_reported() -> None:
    with pytest.raises(DecryptionError, match="unknown format"):
        decrypt_segment(VAULT, BOUNDS, b"\2" + payload_of()[1:])


def test_out_of_range_bounds_hide_their_cause() -> None:
    with pytest.raises(DecryptionError) as caught:
        decrypt_segment(VAULT, dataclasses.replace(BOUNDS, count=-1), payload_of())
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_nonces_of_equal_segments_never_repeat() -> None:
    assert len({payload_of()[17:29] for _ in range(2000)}) == 2000


def test_a_master_key_opens_no_segment(keyring: Keyring) -> None:
    for key in (keyring.transit_key(1), keyring.wrap_key(1), keyring.audit_key(1)):
        with pytest.raises(DecryptionError):
            decrypt_segment(OpenVault(VAULT.vault_id, key), BOUNDS, payload_of())
