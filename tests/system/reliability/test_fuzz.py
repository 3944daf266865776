"""Ten thousand invalid requests get no 5xx and errors in JSON, and the service continues."""

import itertools
import json
import os
from collections import Counter

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from iot_writer.writer import Writer
from support.draining import drain_all
from system.reliability.fuzzing import GOOD, Request, requests

DEEP = os.environ.get("HYPOTHESIS_PROFILE") == "deep"
COUNT = 200_000 if DEEP else 2_500
SEEDS = range(4)
JSON = {"Content-Type": "application/json"}


@pytest.fixture
def settings_changes() -> dict[str, str]:
    """Requests do not wait for a writer, as none runs."""
    return {"IOT_ACK_STORED_SECONDS": "0", "IOT_GUESS_LIMIT": "0"}


@pytest.fixture
def environment(environment: dict[str, str], settings_changes: dict[str, str]) -> dict[str, str]:
    return environment | settings_changes


def send(client: FlaskClient, request: Request) -> TestResponse:
    return client.open(
        request.path, method=request.method, data=request.body, headers=request.headers
    )


@pytest.mark.parametrize("seed", SEEDS)
def test_no_request_is_answered_5xx(client: FlaskClient, writer: Writer, seed: int) -> None:
    statuses: Counter[int] = Counter()
    for request in itertools.islice(requests(seed), COUNT):
        answer = send(client, request)
        statuses[answer.status_code] += 1
        assert answer.status_code < 500, (request, answer.text)
        if answer.status_code >= 400 and request.method != "HEAD":
            assert answer.mimetype == "application/json", request
            body = json.loads(answer.data)
            assert body["error"]
            assert "code" in body
        assert answer.headers["X-Request-Id"], request
    # The requests must cover success and several errors.
    assert {200, 201, 400, 404, 405, 415} <= set(statuses), statuses
    print(f"seed {seed}: {dict(sorted(statuses.items()))}")
    assert client.put("/api/iot", data=GOOD, headers=JSON).status_code == 201
    drain_all(writer)
    assert not writer.redis.exists("iot:dead"), "an acknowledged entry could not be stored"
    read = client.post("/api/iot", data=GOOD, headers=JSON)
    assert len(json.loads(read.data)["data"]) > statuses[201] / 2
