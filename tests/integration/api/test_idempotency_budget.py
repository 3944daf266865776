"""Remembered requests have a total budget and a budget for each client."""

import json

import pytest
from flask.testing import FlaskClient
from redis import Redis
from werkzeug.test import TestResponse

from integration.api.asking import JSON, Api, assert_error, row
from integration.api.conftest import MakeApi
from iot_stores.redis_client import connect_redis
from iot_writer.writer import Writer
from support.draining import drain_all
from support.keys import KEYS

MOST = 40
OF_CLIENT = MOST // 4


def put(api: Api, key: str, address: str = "192.0.2.1") -> TestResponse:
    headers = {**JSON, "Idempotency-Key": key, "X-Forwarded-For": address}
    return api.ask("PUT", "/api/iot", json.dumps(row(freeform=key)), headers)


@pytest.fixture
def api(make_api: MakeApi) -> Api:
    """An API behind a proxy, with a small budget."""
    return make_api(idempotency_max_requests=MOST, trusted_proxies=1)


def test_one_client_gets_a_quarter_of_the_budget(api: Api, writer: Writer) -> None:
    assert {put(api, f"{number}").status_code for number in range(OF_CLIENT)} == {201}
    refused = put(api, "one more")
    error = assert_error(refused, 429, "too_many_requests")
    assert error["error"].endswith("nothing was stored")
    assert 0 < int(refused.headers["Retry-After"]) <= 86_400
    assert (
        put(api, "3").headers["Idempotent-Replayed"] == "true"
    )  # a remembered request stays remembered
    assert put(api, "another client's", "192.0.2.2").status_code == 201
    assert api.put(row(freeform="without a key")).status_code == 201
    drain_all(writer)
    taken = [f"{number}" for number in range(OF_CLIENT)] + ["another client's", "without a key"]
    assert [json.loads(each["freeform"]) for each in api.read()] == taken


def test_forged_addresses_share_one_quarter(make_api: MakeApi) -> None:
    api = make_api(idempotency_max_requests=MOST)
    answers = [put(api, f"{each}", f"192.0.2.{each}").status_code for each in range(OF_CLIENT + 1)]
    assert answers == [201] * OF_CLIENT + [429]


def test_requests_with_a_key_beyond_the_budget_are_refused(api: Api, writer: Writer) -> None:
    for client in range(4):
        for number in range(OF_CLIENT):
            assert put(api, f"{client} {number}", f"192.0.2.{client}").status_code == 201
    refused = put(api, "one more", "192.0.2.9")
    assert_error(refused, 503, "unavailable")
    assert 0 < int(refused.headers["Retry-After"]) <= 3600
    drain_all(writer)
    assert len(api.read()) == MOST


def test_the_budget_recovers_over_time(api: Api, redis: "Redis") -> None:
    for client in range(4):
        for number in range(OF_CLIENT):
            put(api, f"{client} {number}", f"192.0.2.{client}")
    counts = redis.hgetall(KEYS.remembered_counts)
    assert sum(int(count) for count in counts.values()) == MOST
    redis.delete(KEYS.remembered_counts)
    for bucket, count in counts.items():  # as if 25 hours had passed
        redis.hset(KEYS.remembered_counts, str(int(bucket) - 25), count)
    assert put(api, "one more", "192.0.2.9").status_code == 201
    assert [int(count) for count in redis.hvals(KEYS.remembered_counts)] == [1]


def test_a_remembered_request_takes_the_documented_memory(
    client: FlaskClient, writer: Writer
) -> None:
    """The documentation of `IOT_IDEMPOTENCY_MAX_REQUESTS` says 250 bytes."""
    headers = {"Idempotency-Key": "k" * 255}
    with connect_redis(writer.settings) as redis:
        client.put("/api/iot", json=row(), headers={"Idempotency-Key": "warm"})
        drain_all(writer)
        client.put("/api/iot", json=row(), headers=headers)
        (*_, key) = redis.keys(KEYS.remembered_request(b"") + "*")
        assert redis.memory_usage(key) <= 250


def test_each_further_password_takes_the_documented_memory(
    client: FlaskClient, writer: Writer
) -> None:
    """`docs/reliability.md` says 51 bytes at most."""
    with connect_redis(writer.settings) as redis:
        sizes = []
        for passwords in ("a", "abcdefghij"):
            rows = [row(password) for password in passwords]
            client.put("/api/iot", json=rows, headers={"Idempotency-Key": passwords})
            keys = redis.keys(KEYS.remembered_request(b"") + "*")
            sizes.append(max(map(redis.strlen, keys)))
        first, all_ten = sizes
        assert 0 < all_ten - first <= 9 * 51
