"""The cost of a PUT in Redis commands and function calls, counts that do not depend on the
machine.
"""

import json
import logging
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, TypeVar

import pytest
from redis import Redis

from integration.api.asking import JSON, Api, row, sample
from support.api_worker import lone_worker
from support.counting import calls_into, function_calls, redis_commands

Counted = TypeVar("Counted")
MOST_CALLS = 210
"""Limit of the Python and C functions called by a PUT of one reading."""
NOISE = 5
"""Calls that a busy machine adds, for example to wait for a socket again."""
BODY = json.dumps(row(freeform=21.5, relative_time=1, interrogator_time=2)).encode()
REQUEST = (
    b"PUT /api/iot HTTP/1.1\r\nHost: x\r\nUser-Agent: x/1.0\r\nAccept: */*\r\n"
    b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(BODY), BODY)
)


@pytest.fixture
def warm(api: Api) -> Api:
    """Return an app with open vaults, its script in Redis, and all drains queued."""
    assert api.put([row(f"{number}") for number in range(10)]).status_code == 201
    assert api.put(row()).status_code == 201
    api.end_background_threads()
    return api


def appended(entries: int, shards: int = 1) -> "Counter[str]":
    """Return the commands of an append whose drains are queued already."""
    per_entry = {"hincrby": shards + 1, "xadd": entries, "lpos": shards}
    once = Counter({"evalsha": 1, "get": 1, "hmget": 1})  # get: the guess limit
    return once + Counter(per_entry)


def test_a_put_runs_one_script(warm: Api, redis: "Redis") -> None:
    with redis_commands(redis) as counted:
        warm.put(row())
    assert counted == appended(1)


def test_readings_of_one_vault_are_one_entry(warm: Api, redis: "Redis") -> None:
    with redis_commands(redis) as counted:
        warm.put([row(freeform=number) for number in range(1000)])
    assert counted == appended(1)


@pytest.mark.parametrize("vaults", [2, 10])
def test_readings_of_several_vaults_are_one_script(warm: Api, redis: "Redis", vaults: int) -> None:
    with redis_commands(redis) as counted:
        warm.put([row(f"{number % vaults}") for number in range(50)])
    assert counted == appended(vaults, counted["lpos"])
    assert counted["lpos"] <= min(vaults, 8)


def test_the_commands_of_an_idempotency_key(warm: Api, redis: "Redis") -> None:
    with redis_commands(redis) as counted:
        warm.ask("PUT", "/api/iot", BODY, {**JSON, "Idempotency-Key": "k"})
    noted = {"mget": 2, "get": 3, "set": 2, "time": 1, "hgetall": 1, "hincrby": 1, "incrby": 1}
    assert counted == appended(1) + Counter(noted)
    with redis_commands(redis) as counted:
        warm.ask("PUT", "/api/iot", BODY, {**JSON, "Idempotency-Key": "k"})
    assert counted == {"mget": 2}  # the remembered answer and the guess limit


def test_a_refused_put_sends_redis_no_command(warm: Api, redis: "Redis") -> None:
    with redis_commands(redis) as counted:
        assert warm.put([row(), {}]).status_code == 400
    assert counted == {}


def test_a_put_to_an_open_vault_does_not_query_postgres(
    warm: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = warm.service.pool
    getconn, taken = pool.getconn, Counter[int]()

    def counted(*arguments: Any, **options: Any) -> Any:
        # By thread: the planner of compactions asks Postgres in the background.
        taken[threading.get_ident()] += 1
        return getconn(*arguments, **options)

    monkeypatch.setattr(pool, "getconn", counted)
    own = threading.get_ident()
    for number in range(10):
        assert warm.put(row(f"{number}")).status_code == 201
    assert taken[own] == 0
    assert warm.put(row("a new one")).status_code == 201
    assert taken[own] > 0


class Log(logging.Logger):
    """A logger with the extra method of gunicorn's logger."""

    def access(self, *_: object) -> None:
        """Log no requests."""


@pytest.fixture
def worker(warm: Api) -> Iterator[Any]:
    """Return a gunicorn worker with the app."""
    with lone_worker(Log(__name__)) as made:
        made.wsgi = warm.app
        yield made


def send_puts(
    worker: Any, requests: int, count: Callable[[Callable[[], None]], Counted]
) -> Counted:
    """Return what `count` finds while a connection with `requests` requests is served."""
    client, server = socket.socketpair()
    listener = SimpleNamespace(getsockname=lambda: ("127.0.0.1", 8000))
    with client, server:
        client.sendall(REQUEST * requests)
        client.shutdown(socket.SHUT_WR)
        found = count(lambda: worker.handle(listener, server, ("127.0.0.1", 1)))
        assert client.makefile("rb").read().count(b"HTTP/1.1 201 ") == requests
    return found


def calls_of(worker: Any, requests: int) -> int:
    """Return the number of functions called for a connection with `requests` requests."""
    return send_puts(worker, requests, function_calls)


def fewest_calls(worker: Any, requests: int) -> int:
    """Return the lowest number that occurs five times, which excludes periodic work and load."""
    counts: list[int] = []
    while not counts or counts.count(min(counts)) < 5:
        counts.append(calls_of(worker, requests))
        assert len(counts) < 300, f"no count occurred five times: {counts}"
    return min(counts)


def test_a_put_calls_few_functions(worker: Any) -> None:
    """The count runs from the bytes of the request to the bytes of the answer."""
    calls = fewest_calls(worker, 2) - fewest_calls(worker, 1)
    again = fewest_calls(worker, 3) - fewest_calls(worker, 2)
    assert abs(calls - again) <= NOISE
    print(f"a PUT calls {calls} functions")
    assert calls <= MOST_CALLS


def test_metrics_cost_a_put_less_than_a_microsecond_each(worker: Any) -> None:
    """prometheus_client takes 1.5 to 5 µs for each metric: a lock, and a write to a mapped file.
    So the API adds numbers itself, and gives the sums to prometheus_client ten times a second."""
    counted = send_puts(worker, 3, lambda work: calls_into("prometheus_client", work))
    assert counted == {}
    acknowledged = sample("iot_readings_acknowledged_total")
    send_puts(worker, 2, function_calls)
    assert sample("iot_readings_acknowledged_total") == acknowledged + 2
