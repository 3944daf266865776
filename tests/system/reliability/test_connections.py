"""Connections to Postgres and Redis stay below their limits under load."""

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from typing import cast

import psycopg
from redis import Redis

from iot_models.settings import Settings
from iot_stores.redis_client import MAX_CONNECTIONS, connect_redis
from support.processes import api_workers
from support.stack import MakeStack, Stack
from support.waiting import wait_until
from system.reliability.devices import Fleet

WORKERS, WRITERS, POOL = 12, 5, 2
DEVICES, READERS = 24, 40
MAX_POSTGRES = WORKERS * POOL + WRITERS
REDIS_OF_A_WRITER = 5
"""RQ's blocking wait, its commands, its subscription, the drain and the ticker."""
REDIS_OF_AN_API = 5
"""An API process opens one for each concurrent command: at most `MAX_CONNECTIONS`, and few while
Redis answers. Heartbeats and rate limits send theirs beside the requests."""
MAX_REDIS = WRITERS * REDIS_OF_A_WRITER + WORKERS * REDIS_OF_AN_API

_HELD = """
    SELECT application_name, count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()
        AND backend_type = 'client backend'  -- Postgres's own vacuum is there now and then
    GROUP BY 1
"""


def test_connections_of_many_processes_stay_below_the_limits(
    make_stack: MakeStack, settings: Settings, postgres_url: str
) -> None:
    changes = {"IOT_API_WORKERS": "1", "IOT_API_POSTGRES_POOL": str(POOL)}
    stack = make_stack(changes, writers=WRITERS, metrics=True)
    assert stack.api is not None
    master = stack.api.pid
    for count in range(2, WORKERS + 1):  # one by one: gunicorn merges signals
        os.kill(master, signal.SIGTTIN)
        wait_until(lambda n=count: len(api_workers(master)) >= n, what="one more worker")  # type: ignore[misc]
    most_postgres = most_redis = 0
    with (
        psycopg.connect(postgres_url, autocommit=True) as postgres,
        Redis.from_url(settings.redis_url) as redis,
        Fleet(DEVICES, [stack.port]) as fleet,
        ThreadPoolExecutor(READERS) as ask,
    ):
        wait_until(lambda: len(redis.client_list()) > WRITERS, what="writers")
        asking = ask.map(lambda _: _ask_until_answered(stack), range(400))
        for _ in range(10):
            fleet.go_on(1, seconds=60)
            held = cast("list[tuple[str, int]]", postgres.execute(_HELD).fetchall())
            assert {name for name, _ in held} <= {"iot-api", "iot-writer"}
            most_postgres = max(most_postgres, sum(count for _, count in held))
            most_redis = max(most_redis, len(redis.client_list()) - 1)
        refused = sum(asking)
    print(
        f"{WORKERS} API workers and {WRITERS} writers held {most_postgres} connections to Postgres"
        f" (bound {MAX_POSTGRES}) and {most_redis} to Redis (bound {MAX_REDIS});"
        f" they refused {refused} reads for a while"
    )
    assert WRITERS < most_postgres <= MAX_POSTGRES
    assert most_redis <= MAX_REDIS
    fleet.check(stack.read)


def _ask_until_answered(stack: Stack) -> int:
    """Repeat a read until it succeeds, and return the number of 503 responses. The processes share
    few cores, and a request is refused after three seconds without a connection.
    """
    refused = 0
    while (answer := stack.request("GET", "/api/iot/maxtime")).status != 200:
        assert answer.status == 503
        refused += 1
        time.sleep(int(answer.headers["Retry-After"]))
    return refused


def test_a_command_waits_for_a_connection_at_the_limit(settings: Settings) -> None:
    with connect_redis(settings) as client, ThreadPoolExecutor(2 * MAX_CONNECTIONS) as pool:
        asked = range(2 * MAX_CONNECTIONS)
        answers = set(pool.map(lambda n: client.blpop([f"nothing {n}"], 0.3), asked))
        assert answers == {None}
        assert MAX_CONNECTIONS / 2 < len(client.client_list()) <= MAX_CONNECTIONS + 1
