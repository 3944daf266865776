"""Another program overwrites keys of the API in Redis with values of another type."""

import pytest
from redis import Redis

from integration.api.asking import Api, assert_error, row, sample
from integration.api.conftest import MakeApi
from integration.api.test_password_change import NEW, OLD, change
from iot_writer.writer import Writer
from support.draining import drain_all
from support.keys import KEYS

KEYED = {"Idempotency-Key": "k"}


def test_overwritten_counts_of_remembered_requests_refuse_no_request(
    api: Api, redis: "Redis"
) -> None:
    redis.set(KEYS.remembered_counts, "planted")
    assert api.put(row(), headers=KEYED).status_code == 201
    assert [int(count) for count in redis.hvals(KEYS.remembered_counts)] == [1]
    assert api.put(row(), headers=KEYED).headers["Idempotent-Replayed"] == "true"


def test_an_overwritten_receipt_refuses_no_request(
    api: Api, redis: "Redis", writer: Writer
) -> None:
    """What Redis remembered of the request is lost, as if the key had been deleted."""
    for _ in range(2):
        assert api.put(row(freeform=1), headers=KEYED).status_code == 201
        (receipt,) = redis.keys("iot:request:*")
        redis.delete(receipt)
        redis.rpush(receipt, "planted")
    drain_all(writer)
    assert len(api.read()) == 2


@pytest.mark.parametrize("name", [KEYS.owner, KEYS.owner_keyring])
def test_an_overwritten_mark_is_written_again(api: Api, redis: "Redis", name: str) -> None:
    assert api.put(row()).status_code == 201
    mark = redis.get(name)
    redis.delete(name)
    redis.rpush(name, "planted")
    assert api.ask("GET", "/readyz").status_code == 200
    assert api.put(row()).status_code == 201
    assert redis.get(name) == mark


def test_overwritten_announcements_refuse_no_request(make_api: MakeApi, redis: "Redis") -> None:
    api, other = make_api(), make_api()
    for process in (api, other):
        process.service.change_follower.start()
        assert process.put(row(OLD)).status_code == 201
    redis.set(KEYS.password_changes, "planted")
    for process in (api, other):
        process.service.change_follower.check()
        assert process.put(row(OLD)).status_code == 201
    assert change(api).status_code == 200
    assert redis.type(KEYS.password_changes) == b"stream"
    assert other.read(password=OLD) == []
    assert other.put(row(NEW)).status_code == 201


def test_an_overwritten_stream_refuses_requests_until_it_is_repaired(
    api: Api, redis: "Redis", writer: Writer
) -> None:
    assert api.put(row()).status_code == 201
    drain_all(writer)
    (stream,) = redis.keys("iot:ingest:*")
    redis.set(stream, "planted")
    error = assert_error(api.put(row()), 503, "unavailable")
    assert "WRONGTYPE" in error["error"]
    assert sample("iot_http_requests_total", code="500") == 0
    writer.repair_redis()
    assert api.put(row()).status_code == 201
    drain_all(writer)
    assert len(api.read()) == 2
