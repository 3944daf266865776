"""Receipts of requests that use all shards, requested from a real process behind a proxy."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from iot_models.names import MAX_SHARDS
from iot_models.settings import load
from iot_writer.writer import Writer
from support.draining import drain_all
from support.stack import Stack

ROWS = [{"data": {"db_password": f"password {number}"}} for number in range(400)]
JSON = {"Content-Type": "application/json"}


@pytest.fixture
def widest(environment: dict[str, str]) -> dict[str, str]:
    """Settings with the maximum number of shards, behind one proxy."""
    return {
        **environment,
        "IOT_SHARDS": str(MAX_SHARDS),
        "IOT_MAX_PASSWORDS": str(len(ROWS)),
        "IOT_GUESS_LIMIT": "0",
        "IOT_ACK_STORED_SECONDS": "0",
        "IOT_TRUSTED_PROXIES": "1",
        "IOT_API_WORKERS": "1",
    }


@pytest.fixture
def api(widest: dict[str, str], tmp_path: Path) -> Iterator[Stack]:
    """The API alone."""
    made = Stack(widest, tmp_path)
    try:
        made.start_api()
        yield made
    finally:
        made.stop()


def test_a_receipt_of_all_shards_fits_into_a_request_line(
    api: Stack, widest: dict[str, str]
) -> None:
    """The receipt is requested through a proxy with a long prefix, and after a repeated request."""
    prefix = "/" + "p" * 200
    headers = {**JSON, "Idempotency-Key": "one", "X-Forwarded-Prefix": prefix}
    # The first PUT creates the vaults, which is slow on a busy machine: 50 vaults per request.
    for start in range(0, len(ROWS), 50):
        assert api.put(ROWS[start : start + 50]).status == 201
    answers = [
        api.request("PUT", "/api/iot?ack=stored", json.dumps(ROWS), headers) for _ in range(2)
    ]
    for answer in answers:
        assert answer.status == 202
        assert answer.headers["Location"] == prefix + answer.json()["ask"]
        assert api.request("GET", answer.headers["Location"]).status == 404  # not 414
        assert api.request("GET", answer.json()["ask"]).status == 202
    writer = Writer(load(widest))
    drain_all(writer)
    writer.close()
    for answer in answers:
        assert api.request("GET", answer.json()["ask"]).json() == {"stored": True}
