"""What requests carry, and which errors responses become."""

import gzip
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from decimal import localcontext
from typing import Any

import pytest

from iot_sensor_client import Client, RejectedError, RetryableError, RetryPolicy
from unit.client.conftest import CLOSE, Server

QUICK = RetryPolicy(base_seconds=0.001)
READING = {"relative_time": 1, "interrogator_time": 2, "freeform": {"rssi": -61}}


def test_readings_are_sent_under_the_password_and_one_key(server: Server) -> None:
    server.answers = [(503, {}), (CLOSE, {})]
    with Client(server.url, "secret", retry=QUICK) as client:
        client.put_readings([READING, {**READING, "db_password": "other"}])
        client.put_readings(iter([READING]), idempotency_key="chosen")
    rows = [
        {"data": {"db_password": "secret", **READING}},
        {"data": {"db_password": "other", **READING}},
    ]
    *first, last = server.received
    assert [(each.method, each.path, json.loads(each.body)) for each in first] == [
        ("PUT", "/api/iot", rows)
    ] * 3
    assert len({each.headers["idempotency-key"] for each in first}) == 1
    assert first[0].headers["content-type"] == "application/json"
    assert last.headers["idempotency-key"] == "chosen"
    assert json.loads(last.body) == rows[:1]


def test_a_client_without_a_password_names_none(server: Server) -> None:
    server.body = b'{"data": [], "success": "1 object(s) created"}'
    with Client(server.url) as client:
        client.put_readings([READING])
        assert client.read() == []
    assert [json.loads(each.body) for each in server.received] == [
        [{"data": READING}],
        {"data": {}},
    ]


@pytest.mark.parametrize(
    ("arguments", "path"),
    [
        ({}, "/api/iot"),
        ({"last": 3}, "/api/iot/last/3"),
        ({"seconds": 60}, "/api/iot/seconds/60"),
        ({"start": -5}, "/api/iot/-5"),
        ({"start": 0, "end": 9}, "/api/iot/0/9"),
    ],
)
def test_reads(server: Server, arguments: dict[str, int], path: str) -> None:
    server.body = b'{"data": [{"id": 1}]}'
    with Client(server.url, "secret") as client:
        assert client.read(**arguments) == [{"id": 1}]
    (request,) = server.received
    assert (request.method, request.path) == ("POST", path)
    assert json.loads(request.body) == {"data": {"db_password": "secret"}}


@pytest.mark.parametrize(
    "arguments", [{"last": 1, "seconds": 2}, {"end": 3}, {"last": 1, "end": 3}]
)
def test_arguments_that_do_not_go_together(server: Server, arguments: dict[str, int]) -> None:
    with (
        Client(server.url) as client,
        pytest.raises(
            ValueError, match="give only one of last, seconds and start; end needs start"
        ),
    ):
        client.read(**arguments)
    assert server.received == []


@pytest.mark.parametrize(("answer", "greatest"), [("7", 7), ("null", None)])
def test_the_greatest_relative_timestamp(server: Server, answer: str, greatest: int | None) -> None:
    server.body = b'{"data": [{"max_relative_timestamp": %b}]}' % answer.encode()
    with Client(server.url, "secret") as client:
        assert client.max_relative_time() == greatest
    assert server.received[0].path == "/api/iot/maxtime"


CALLS: list[Callable[[Client], Any]] = [
    lambda client: client.put_readings([READING]),
    lambda client: client.read(),
    lambda client: client.max_relative_time(),
]


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("status", [308, 400, 413, 415, 422])
def test_a_request_that_will_never_be_accepted(
    server: Server, status: int, call: Callable[[Client], Any]
) -> None:
    server.answers = [(status, {})]
    why = "why" * 100
    server.body = json.dumps({"error": why, "code": "invalid_request"}).encode()
    with Client(server.url) as client, pytest.raises(RejectedError) as caught:
        call(client)
    assert str(caught.value) == f"{status} {why}"
    assert caught.value.status == status


@pytest.mark.parametrize(
    "body", [b"<html>" * 100, b'{"error": "why"}', b'{"error": {}, "code": 1}']
)
def test_the_refusal_of_another_server_is_quoted(server: Server, body: bytes) -> None:
    server.answers = [(400, {})]
    server.body = body
    with Client(server.url) as client, pytest.raises(RejectedError) as caught:
        client.read()
    assert str(caught.value) == f"400 {body[:200].decode()}"


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("status", [401, 403, 404, 429, 500, 503])
def test_a_request_that_may_succeed_later(
    server: Server, status: int, call: Callable[[Client], Any]
) -> None:
    server.answers = [(status, {"Retry-After": "3"})]
    retry = RetryPolicy(max_attempts=1)
    with Client(server.url, retry=retry) as client, pytest.raises(RetryableError) as caught:
        call(client)
    assert (caught.value.status, caught.value.retry_after) == (status, 3)


@pytest.mark.parametrize(
    "call",
    [
        *CALLS,
        lambda client: client.send([READING]),
        lambda client: client.change_password("new"),
        lambda client: client.erase_vault(),
        lambda client: client.erase_readings(0, 1),
    ],
)
@pytest.mark.parametrize(
    "body",
    [
        b"<html>",
        b"[]",
        b"{}",
        b"1",
        b'{"success": false, "data": false, "changed": false, "erased": null, "status": 0}',
        b'{"success": "0 object(s) created"}',
        pytest.param(b"[" * 100_000, id="deep"),
    ],
)
def test_a_response_of_another_server(
    server: Server, body: bytes, call: Callable[[Client], Any]
) -> None:
    server.body = body
    with Client(server.url) as client, pytest.raises(RetryableError, match="not from iot-sensor"):
        call(client)
    assert not client.is_ready()


def test_a_token_is_asked_for_before_each_attempt(server: Server) -> None:
    tokens = iter(["first", "second\n", ""])
    server.answers = [(503, {})]
    with Client(server.url, token=lambda: next(tokens), retry=QUICK) as client:
        client.request("GET", "/")
        client.request("GET", "/")
    given = [each.headers.get("authorization") for each in server.received]
    assert given == ["Bearer first", "Bearer second", None]


def test_headers_of_a_request_win(server: Server) -> None:
    with Client(server.url, token="token") as client:
        headers = {"authorization": "Basic x", "content-type": "application/x-ndjson"}
        client.request("PUT", "/", json=[], headers=headers)
    (request,) = server.received
    assert {name: request.headers[name] for name in headers} == headers


def test_gzip(server: Server) -> None:
    large, small = "é" * 1000, "é"
    with Client(server.url, gzip=True) as client:
        client.request("PUT", "/", large)
        client.request("PUT", "/", small)
        client.request("PUT", "/", large, {"Content-Encoding": "identity"})
    compressed, *plain = server.received
    assert compressed.headers["content-encoding"] == "gzip"
    assert gzip.decompress(compressed.body).decode() == large
    assert [each.body.decode() for each in plain] == [small, large]


def test_readiness(server: Server) -> None:
    client = Client(server.url)
    assert client.is_ready()
    server.answers = [(503, {"Retry-After": "9"})]
    assert not client.is_ready()
    assert not client.connected
    assert {each.path for each in server.received} == {"/readyz"}
    assert len(server.received) == 2


@pytest.mark.parametrize("call", ["put_readings", "send"])
@pytest.mark.parametrize(
    ("reading", "problem"),
    [
        ({"temperature": 21.5}, "reading 1 has the member 'temperature', .* into `freeform`"),
        ({"interrogator_timestamp": 5}, "'interrogator_timestamp', .* into `interrogator_time`"),
        ("temperature", "reading 1 is a str, not a mapping"),
        ({"freeform": {1, 2}}, "reading 1 can't be written as JSON"),
    ],
)
def test_no_value_is_left_out_silently(
    server: Server, call: str, reading: Any, problem: str
) -> None:
    with Client(server.url, "secret") as client, pytest.raises(ValueError, match=problem):
        getattr(client, call)([{"freeform": 1}, reading])
    assert server.received == []


@pytest.mark.parametrize(
    ("time", "query"),
    [
        (datetime(2026, 3, 29, 1, 30, 0, 123000, UTC), "from=1774747800123"),
        (datetime(2026, 3, 29, 1, 30, 0, 123456, UTC), "from=1774747800123.456"),
        (datetime(1969, 12, 31, 23, 59, 59, 999999, UTC), "from=-0.001"),
        (datetime(2026, 3, 29, 3, 30, tzinfo=timezone(timedelta(hours=2))), "from=1774747800000"),
    ],
)
def test_a_time_keeps_its_microseconds(server: Server, time: datetime, query: str) -> None:
    server.body = b'{"data": []}'
    with Client(server.url) as client, localcontext(prec=5):
        assert list(client.readings(since=time)) == []
    assert query in server.received[0].path.split("&")


@pytest.mark.parametrize("argument", ["since", "until"])
def test_a_time_must_be_a_datetime(server: Server, argument: str) -> None:
    times: Any = {argument: "2026-01-01"}
    with Client(server.url) as client, pytest.raises(TypeError, match=f"{argument} must be a date"):
        client.readings(**times)
