"""The name by which a request with an Idempotency-Key is remembered."""

import uuid

from iot_api.intake import request_name
from iot_cipher.vault import OpenVault


def test_each_part_is_hashed_with_its_length() -> None:
    """A key that ends like the id of a vault does not name another request."""
    one, two = (OpenVault(uuid.UUID(bytes=each * 16), bytes(32)) for each in (b"a", b"b"))
    assert request_name("k" + "a" * 16, [two]) != request_name("k", [one, two])
    assert request_name("k", [one, two]) == request_name("k", [two, one])
    assert request_name("k", [one]) != request_name("l", [one])
