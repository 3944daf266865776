"""Connections to Redis are renewed when the server refuses a command for its state."""

from collections.abc import Iterator
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import ResponseError

from iot_models.settings import Settings
from iot_stores.redis_client import connect_redis
from iot_stores.redis_connections import RENEW_SECONDS, renew_connections
from support.waiting import wait_until

REFUSAL = "return redis.error_reply('NOREPLICAS Not enough good replicas to write.')"


@pytest.fixture
def redis(settings: Settings) -> Iterator["Redis"]:
    """The client of a service."""
    client = connect_redis(settings)
    yield client
    client.close()


def refuse(redis: "Redis") -> None:
    """Let Redis answer with an error that shows a state."""
    with pytest.raises(ResponseError, match="NOREPLICAS"):
        redis.eval(REFUSAL, 0)


def id_of(connection: Any) -> str:
    connection.send_command("CLIENT", "ID")
    return str(connection.read_response())


def connected(redis: "Redis") -> set[str]:
    return {each["id"] for each in redis.client_list()}


@pytest.mark.parametrize("refusal", ["reply", "reply in a pipeline", "seen by a caller"])
def test_a_refusal_closes_idle_connections_and_those_in_use_when_they_are_returned(
    redis: "Redis", refusal: str
) -> None:
    pool: Any = redis.connection_pool
    used, idle = pool.get_connection(), pool.get_connection()
    ids = id_of(used), id_of(idle)
    pool.release(idle)
    assert connected(redis) >= set(ids)
    if refusal == "reply":
        refuse(redis)
    elif refusal == "reply in a pipeline":
        with redis.pipeline(transaction=False) as pipeline:
            pipeline.eval(REFUSAL, 0)
            pipeline.execute(raise_on_error=False)
    else:
        renew_connections(redis)
    wait_until(lambda: connected(redis).isdisjoint(ids[1:]))
    assert ids[0] in connected(redis)
    assert id_of(used) == ids[0]  # the command of another thread does not fail
    pool.release(used)
    wait_until(lambda: connected(redis).isdisjoint(ids))


def test_an_error_that_shows_no_state_closes_no_connection(redis: "Redis") -> None:
    redis.set("text", "x")
    before = connected(redis)
    with pytest.raises(ResponseError, match="integer"):
        redis.incr("text")
    assert connected(redis) == before


def test_a_new_connection_closes_no_other(redis: "Redis") -> None:
    """redis-py asks each server for subcommands that Redis 7.0 refuses."""
    pool: Any = redis.connection_pool
    first, second = pool.get_connection(), pool.get_connection()
    ids = id_of(first), id_of(second)
    pool.release(first)
    pool.release(second)
    assert set(ids) <= connected(redis), "both are still open"


def test_refusals_in_a_row_renew_once(redis: "Redis", monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("iot_stores.redis_connections.time.monotonic", lambda: now)
    pool: Any = redis.connection_pool
    ids = []
    for _ in range(3):
        refuse(redis)
        connection = pool.get_connection()
        ids.append(id_of(connection))
        pool.release(connection)
        now += RENEW_SECONDS / 2
    assert ids[0] == ids[1] != ids[2]
