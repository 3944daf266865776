"""The digest that a request with an Idempotency-Key is remembered by."""

import uuid

from iot_api.ingest.intake import request_digest
from iot_cipher.vault import OpenVault


def test_each_part_is_hashed_with_its_length() -> None:
    """A key that ends like the id of a vault does not equal another request."""
    one, two = (OpenVault(uuid.UUID(bytes=each * 16), bytes(32)) for each in (b"a", b"b"))
    assert request_digest("k" + "a" * 16, [two]) != request_digest("k", [one, two])
    assert request_digest("k", [one, two]) == request_digest("k", [two, one])
    assert request_digest("k", [one]) != request_digest("l", [one])
