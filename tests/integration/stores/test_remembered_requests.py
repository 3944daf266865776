"""Appends with an Idempotency-Key: what Redis remembers, how long, and for how many requests."""

from dataclasses import replace

import pytest
from redis import Redis
from redis.exceptions import RedisError

from iot_models.errors import TooManyRequestsError
from iot_stores.append_conditions import RememberedRequest
from iot_stores.backlog import Backlog
from iot_stores.confirmation import Confirmation
from support.draining import read_waiting
from support.keys import KEYS

MOST = 3
COUNTER = "iot:requests:client"
REQUEST = RememberedRequest(("iot:request:1", "iot:request:2"), 2400, b"yes", 100, COUNTER, MOST)


@pytest.fixture
def backlog(redis: "Redis") -> Backlog:
    """A backlog without entries."""
    return Backlog(redis, KEYS, shards=2, max_bytes=10_000)


def other(number: int) -> RememberedRequest:
    """Return a request with another key."""
    return replace(REQUEST, names=(f"iot:request:other-{number}",))


def test_a_repeat_under_any_name_is_found_and_keeps_its_expiry(
    redis: "Redis", backlog: Backlog
) -> None:
    assert backlog.append([(0, b"a")], REQUEST).first_answer is None
    redis.expire(REQUEST.names[0], 100)
    for names in (REQUEST.names, REQUEST.names[::-1]):
        assert backlog.append([(0, b"a")], replace(REQUEST, names=names)).first_answer == b"yes"
    assert 0 < redis.ttl(REQUEST.names[0]) <= 100
    assert len(read_waiting(backlog, 0)) == 1


@pytest.mark.parametrize("waits", [False, True])
def test_a_repeat_is_answered_without_a_wait_only_if_appends_do_not_wait(
    waits: bool, redis: "Redis", backlog: Backlog
) -> None:
    """Replicas may lack the entries of the first attempt, and a failover would lose them."""
    backlog.append([(0, b"a")], REQUEST)
    confirmation = Confirmation(replicas=1, of_appends=waits)
    waiting = Backlog(redis, KEYS, shards=2, max_bytes=10_000, confirmation=confirmation)
    assert waiting.first_answer(REQUEST.names) == (None if waits else b"yes")


@pytest.mark.parametrize("entries", [[(0, b"a")], [(0, b"a"), (0, b"b")]], ids=["one", "two"])
def test_a_request_that_redis_refuses_is_not_remembered(
    entries: list[tuple[int, bytes]], redis: "Redis", backlog: Backlog
) -> None:
    """Otherwise its repeat would be acknowledged, and the readings would be lost."""
    redis.set(KEYS.stream(0), "planted")
    with pytest.raises(RedisError, match="WRONGTYPE"):
        backlog.append(entries, REQUEST)
    redis.delete(KEYS.stream(0))
    assert backlog.append(entries, REQUEST).first_answer is None
    assert [each.sealed for each in read_waiting(backlog, 0)] == [sealed for _, sealed in entries]


def test_a_client_is_limited_for_a_time(backlog: Backlog) -> None:
    for number in range(MOST):
        backlog.append([(0, b"a")], other(number))
    with pytest.raises(TooManyRequestsError) as refused:
        backlog.append([(0, b"a")], REQUEST)
    assert 0 < refused.value.retry_after <= REQUEST.seconds
    assert len(read_waiting(backlog, 0)) == MOST


@pytest.mark.parametrize("expiry", [None, 2 * REQUEST.seconds])
def test_a_counter_of_a_client_that_lives_too_long_is_reset(
    expiry: int | None, redis: "Redis", backlog: Backlog
) -> None:
    """Another program wrote it, or Redis's clock was ahead: the client would be locked out."""
    redis.set(COUNTER, MOST, ex=expiry)
    backlog.append([(0, b"a")], REQUEST)
    assert redis.get(COUNTER) == b"1"
    assert 0 < redis.ttl(COUNTER) <= REQUEST.seconds


def test_requests_of_the_future_do_not_count(redis: "Redis", backlog: Backlog) -> None:
    """They were counted before Redis's clock was set back."""
    width = REQUEST.seconds // 24
    future = redis.time()[0] // width + 10
    redis.hset(KEYS.remembered_counts, mapping={str(future): REQUEST.max_requests})
    backlog.append([(0, b"a")], REQUEST)
    assert redis.hvals(KEYS.remembered_counts) == [b"1"]
