"""Requests with an Idempotency-Key: names, fingerprints and answers."""

import uuid

import pytest

from iot_api.ingest.idempotency import (
    IdempotencyPolicy,
    KeyedRequest,
    parse_idempotency_key,
    request_digest,
)
from iot_api.ingest.parser import Batch
from iot_api.ingest.receipts import encode_list
from iot_cipher.encryption import EntryName, OpenVault
from iot_models.errors import IdempotencyKeyReusedError, InvalidRequestError
from iot_models.reading import ReadingColumns, int64s
from support.keys import KEYS

ENTRIES = (EntryName(1, b"s" * 16, 5),)
POLICY = IdempotencyPolicy(KEYS, 60, 100)
ONE_ID, TWO_ID = b"a" * 16, b"b" * 16
ONE, TWO = (OpenVault(uuid.UUID(bytes=each), each * 2) for each in (ONE_ID, TWO_ID))


def request(
    key: str, vaults: list[OpenVault], freeform: bytes = b"1", *, old: bool = False
) -> KeyedRequest:
    batches = [Batch(b"p", ReadingColumns(int64s([1]), int64s([2]), freeform)) for _ in vaults]
    return POLICY.request(parse_idempotency_key(key), vaults, batches, old_processes_may_run=old)


def test_each_part_is_hashed_with_its_length() -> None:
    """A key that ends like the id of a vault does not equal another request."""
    assert request_digest("k" + "a" * 16, [TWO_ID]) != request_digest("k", [ONE_ID, TWO_ID])
    assert request_digest("k", [ONE_ID, TWO_ID]) == request_digest("k", [TWO_ID, ONE_ID])
    assert request_digest("k", [ONE_ID]) != request_digest("l", [ONE_ID])


@pytest.mark.parametrize(
    ("header", "key"),
    [
        ("abc", "abc"),
        ('"abc"', "abc"),
        (r'"a\"b\\c"', r'a"b\c'),
        ('"' + "k" * 255 + '"', "k" * 255),
        ('"abc', '"abc'),
        ('a"b"c', 'a"b"c'),
        ('"a"b"', '"a"b"'),
        (r'"a\b"', r'"a\b"'),
        ('""', '""'),
    ],
)
def test_a_key_may_be_a_quoted_string(header: str, key: str) -> None:
    assert parse_idempotency_key(header) == (key, header)


@pytest.mark.parametrize("header", ["", "k" * 256, '"' + "k" * 256 + '"', "é", "a\tb"])
def test_other_keys_are_refused(header: str) -> None:
    with pytest.raises(InvalidRequestError, match="Idempotency-Key"):
        parse_idempotency_key(header)


def test_a_quoted_key_is_found_under_the_name_of_earlier_versions() -> None:
    plain, quoted = request("abc", [ONE]), request('"abc"', [ONE])
    assert quoted.names[0] == plain.names[0]
    assert KEYS.remembered_request(request_digest('"abc"', [ONE_ID])) in quoted.names
    first = request('"abc"', [ONE], old=True)  # while version 0.1 may run
    assert (first.names[0], set(first.names)) == (quoted.names[-1], set(quoted.names))


def test_the_fingerprint_depends_on_key_vault_and_readings() -> None:
    requests = [
        request("k", [ONE]),
        request("l", [ONE]),
        request("k", [TWO]),
        request("k", [ONE], b"2"),
        request("k", [ONE, TWO]),
    ]
    assert len({each.fingerprint for each in requests}) == len(requests)
    assert request("k", [ONE]).fingerprint == request("k", [ONE]).fingerprint
    assert request("k", [ONE, TWO]).fingerprint == request("k", [TWO, ONE]).fingerprint


def test_an_answer_is_read_back() -> None:
    first = request("k", [ONE])
    receipt = encode_list(ENTRIES)
    for remembered in (f"3 {receipt} {first.fingerprint}", f"3 {receipt}", f"3 {receipt} 1other"):
        found = first.decode_answer(remembered.encode())
        assert found.count == 3
        assert first.encode_answer(3, ENTRIES).decode() == f"3 {receipt} {first.fingerprint}"
    with pytest.raises(IdempotencyKeyReusedError):
        request("k", [ONE], b"2").decode_answer(first.encode_answer(3, ENTRIES))


def test_version_0_1_reads_the_answer_while_it_may_run() -> None:
    old = request("k", [ONE], old=True)
    found = old.decode_answer(request("k", [ONE], b"2").encode_answer(3, ENTRIES))
    assert old.encode_answer(found.count, ENTRIES).count(b" ") == 1
