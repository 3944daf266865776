"""AES-256-GCM, and HKDF compared with an HKDF written from RFC 5869."""

import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iot_cipher.encryption import NONCE_BYTES, decrypt, derive, encrypt
from iot_models.errors import DecryptionError

KEY = bytes(range(32))
OTHER_KEY = bytes(range(1, 33))


def rfc_5869(key: bytes, salt: bytes, info: bytes) -> bytes:
    extracted = hmac.digest(salt or bytes(32), key, hashlib.sha256)
    return hmac.digest(extracted, info + b"\1", hashlib.sha256)


@given(st.binary(min_size=32, max_size=32), st.binary(max_size=20), st.binary(max_size=20))
def test_derive_is_hkdf(key: bytes, salt: bytes, info: bytes) -> None:
    assert derive(key, salt=salt, info=info) == rfc_5869(key, salt, info)


@given(st.binary(max_size=200), st.binary(max_size=50))
def test_round_trip(plaintext: bytes, associated: bytes) -> None:
    message = encrypt(KEY, plaintext, associated)
    assert len(message) == NONCE_BYTES + len(plaintext) + 16
    assert decrypt(KEY, message, associated) == plaintext


@given(st.binary(max_size=100))
def test_random_bytes_are_a_decryption_error(message: bytes) -> None:
    with pytest.raises(DecryptionError):
        decrypt(KEY, message, b"")


def test_changed_cut_or_wrongly_bound_messages_are_decryption_errors() -> None:
    message = encrypt(KEY, b"secret", b"bound")
    changed = [
        message[:at] + bytes([message[at] ^ bit]) + message[at + 1 :]
        for at in range(len(message))
        for bit in (1, 128)
    ]
    for other in [*changed, *(message[:at] for at in range(len(message))), message + b"\0"]:
        with pytest.raises(DecryptionError):
            decrypt(KEY, other, b"bound")
    for key, associated in ((OTHER_KEY, b"bound"), (KEY, b"bound "), (KEY, b"")):
        with pytest.raises(DecryptionError):
            decrypt(key, message, associated)


def test_a_failure_hides_its_cause() -> None:
    for message in (b"", encrypt(OTHER_KEY, b"secret", b"")):
        with pytest.raises(DecryptionError) as caught:
            decrypt(KEY, message, b"")
        assert str(caught.value) == "a ciphertext could not be opened"
        assert caught.value.__cause__ is None
        assert caught.value.__suppress_context__


def test_nonces_never_repeat() -> None:
    assert len({encrypt(KEY, b"", b"")[:NONCE_BYTES] for _ in range(5000)}) == 5000
