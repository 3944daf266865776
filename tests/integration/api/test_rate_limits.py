"""Rate limits for each address and each token, which API processes count together."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest
from redis import Redis

from integration.api.asking import JSON, Api, assert_error, row, sample
from integration.api.conftest import MakeApi
from iot_cipher.tokens import new_tokens_text, with_token
from iot_models.scopes import Scope
from iot_writer.writer import Writer
from support.clock import Clock
from support.counting import redis_commands
from support.draining import drain_all
from support.stack import Stack
from support.waiting import wait_until

LIMIT = 5


def settle(*apis: Api) -> None:
    for api in apis:
        assert api.service.rates is not None
        api.service.rates.settle()


def test_an_address_over_its_limit_gets_429_with_the_headers(
    make_api: MakeApi, rate_clock: Clock, writer: Writer
) -> None:
    api = make_api(rate_limit_address=LIMIT)
    for number in range(LIMIT - 1):
        answer = api.put(row(freeform=number))
        assert answer.status_code == 201
        assert answer.headers["RateLimit-Policy"] == f'"address";q={LIMIT};w=60'
        assert answer.headers["RateLimit"] == f'"address";r={LIMIT - 1 - number};t=50'
    assert api.post().headers["RateLimit"] == '"address";r=0;t=50'
    before = sample("iot_refused_total", reason="rate")
    for answer in (api.put(row(freeform="late")), api.post(), api.ask("GET", "/api/iot/maxtime")):
        error = assert_error(answer, 429, "too_many_requests")
        assert error["reason"] == "rate"
        assert answer.headers["Retry-After"] == "50"
        assert answer.headers["RateLimit"] == '"address";r=0;t=50'
    assert sample("iot_refused_total", reason="rate") == before + 3
    rate_clock.now += 50
    drain_all(writer)
    assert [each["freeform"] for each in api.read()] == ["0", "1", "2", "3"]
    assert api.put(row(freeform="late")).status_code == 201  # a retry loses nothing


def test_processes_agree_after_an_exchange(make_api: MakeApi, rate_clock: Clock) -> None:
    one, other = (make_api(rate_limit_address=LIMIT) for _ in range(2))
    for _ in range(3):
        assert one.put(row()).status_code == 201
    assert other.put(row()).headers["RateLimit"] == '"address";r=4;t=50'  # not settled yet
    settle(one, other)
    assert other.put(row()).headers["RateLimit"] == '"address";r=0;t=50'
    assert_error(other.put(row()), 429, "too_many_requests")
    settle(other)
    settle(one)  # nothing to add: `one` learns with its next request
    assert one.put(row()).status_code == 201
    settle(one)
    assert_error(one.put(row()), 429, "too_many_requests")
    rate_clock.now += 60
    assert one.put(row()).headers["RateLimit"] == '"address";r=4;t=50'


def test_addresses_and_tokens_have_their_own_limits(
    make_api: MakeApi, rate_clock: Clock, tmp_path: Path
) -> None:
    del rate_clock
    text, first = with_token(new_tokens_text(), "first", (Scope.INGEST,))
    text, second = with_token(text, "second", (Scope.INGEST,))
    (tmp_path / "tokens.json").write_text(text, encoding="utf-8")
    api = make_api(
        rate_limit_address=4,
        rate_limit_token=2,
        trusted_proxies=1,
        tokens_file=str(tmp_path / "tokens.json"),
    )

    def status(token: str, address: str) -> int:
        headers = {**JSON, "Authorization": f"Bearer {token}", "X-Forwarded-For": address}
        return api.ask("PUT", "/api/iot", json.dumps(row()), headers).status_code

    assert [status(first, f"192.0.2.{each}") for each in range(3)] == [201, 201, 429]
    assert [status(second, "192.0.2.9") for _ in range(3)] == [201, 201, 429]
    headers = {**JSON, "Authorization": f"Bearer {second}", "X-Forwarded-For": "192.0.2.9"}
    answer = api.ask("PUT", "/api/iot", json.dumps(row()), headers)
    assert answer.headers["RateLimit-Policy"] == '"address";q=4;w=60, "token";q=2;w=60'
    assert re.fullmatch(r'"address";r=2;t=50, "token";r=0;t=50', answer.headers["RateLimit"])


def test_a_put_costs_no_command_more(make_api: MakeApi, redis: "Redis") -> None:
    with_limit, without = make_api(rate_limit_address=1000), make_api(rate_limit_address=0)
    assert fewest_commands(with_limit, redis) == fewest_commands(without, redis)


def fewest_commands(api: Api, redis: "Redis") -> "Counter[str]":
    """Return the commands of a PUT. Threads of the process may send more meanwhile."""
    counts = []
    for _ in range(10):
        with redis_commands(redis) as counted:
            assert api.put(row()).status_code == 201
        counts.append(counted)
    return min(counts, key=Counter.total)


def test_without_limits_there_are_no_headers(make_api: MakeApi) -> None:
    api = make_api(rate_limit_address=0)
    for answer in (api.put(row()), api.post(), api.ask("GET", "/nothing")):
        assert not {"RateLimit", "RateLimit-Policy"} & set(dict(answer.headers))


def test_health_checks_are_not_counted(make_api: MakeApi) -> None:
    api = make_api(rate_limit_address=1)
    for _ in range(3):
        answer = api.ask("GET", "/healthz")
        assert answer.status_code == 200
        assert "RateLimit" not in answer.headers


def test_planted_and_missing_counters_lock_nobody_out(
    make_api: MakeApi, rate_clock: Clock, redis: "Redis"
) -> None:
    del rate_clock
    api = make_api(rate_limit_address=LIMIT)
    assert api.put(row()).status_code == 201
    settle(api)
    (key,) = redis.keys("iot:rates:*")
    assert 0 < redis.ttl(key) <= 120
    redis.set(key, "no number")
    assert api.put(row()).status_code == 201
    with pytest.raises(Exception, match="not an integer"):
        settle(api)
    assert api.put(row()).headers["RateLimit"] == f'"address";r={LIMIT - 3};t=50'


@pytest.fixture
def environment(environment: dict[str, str]) -> dict[str, str]:
    """Two processes with a limit."""
    return environment | {"IOT_RATE_LIMIT_ADDRESS": "40", "IOT_API_WORKERS": "2"}


def test_the_processes_of_a_pod_refuse_a_client_together(stack: Stack) -> None:
    """Connections are spread over the processes, and none of them is served after a second."""

    def statuses() -> set[int]:
        answers = stack.ask_each_worker("PUT", "/api/iot", json.dumps(row()), JSON)
        return {answer.status for answer in answers}

    assert statuses() == {201}
    wait_until(lambda: statuses() == {429}, what="the limit in all processes")
    assert stack.request("GET", "/healthz").status == 200
