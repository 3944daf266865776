"""Idempotency-Key: a repeated request gets the first answer and stores nothing."""

import json
import threading

from flask.testing import FlaskClient

from iot_stores.redis_client import connect_redis
from iot_writer.writer import Writer
from support.draining import drain_all
from support.keys import KEYS
from support.stack import Stack
from support.waiting import wait_until

ROWS = [{"data": {"db_password": "p", "freeform": number}} for number in range(3)]


def read(client: FlaskClient, vault: str = "p") -> list[str]:
    answer = client.post("/api/iot", json={"data": {"db_password": vault}})
    return [row["freeform"] for row in json.loads(answer.data)["data"]]


def test_a_repeated_request_gets_the_first_response_and_stores_nothing(
    client: FlaskClient, writer: Writer
) -> None:
    first = client.put("/api/iot", json=ROWS, headers={"Idempotency-Key": "one"})
    again = client.put("/api/iot", json=ROWS, headers={"Idempotency-Key": "one"})
    assert (again.status_code, again.data) == (first.status_code, first.data)
    assert "Idempotent-Replayed" not in first.headers
    assert again.headers["Idempotent-Replayed"] == "true"
    drain_all(writer)
    late = client.put("/api/iot", json=ROWS, headers={"Idempotency-Key": "one"})
    assert late.data == first.data
    drain_all(writer)
    assert read(client) == ["0", "1", "2"]


def test_another_key_or_password_is_another_request(client: FlaskClient, writer: Writer) -> None:
    other = [{"data": {"db_password": "q", "freeform": 9}}]
    client.put("/api/iot", json=ROWS, headers={"Idempotency-Key": "one"})
    client.put("/api/iot", json=ROWS, headers={"Idempotency-Key": "two"})
    client.put("/api/iot", json=other, headers={"Idempotency-Key": "one"})
    drain_all(writer)
    assert read(client) == ["0", "1", "2"] * 2
    assert read(client, "q") == ["9"]


def test_a_refused_request_is_not_remembered(client: FlaskClient, writer: Writer) -> None:
    bad = [{"data": {"db_password": "p", "relative_time": "x"}}]
    assert client.put("/api/iot", json=bad, headers={"Idempotency-Key": "k"}).status_code == 400
    assert client.put("/api/iot", json=ROWS, headers={"Idempotency-Key": "k"}).status_code == 201
    drain_all(writer)
    assert read(client) == ["0", "1", "2"]


def test_a_key_is_remembered_for_a_day(client: FlaskClient, writer: Writer) -> None:
    client.put("/api/iot", json=ROWS, headers={"Idempotency-Key": "one"})
    with connect_redis(writer.settings) as redis:
        (key,) = redis.keys(f"{KEYS.remembered_request(b'')}*")
        assert 86_000 < redis.ttl(key) <= 86_400


def test_an_invalid_key_is_refused(client: FlaskClient) -> None:
    answer = client.put("/api/iot", json=ROWS, headers={"Idempotency-Key": "x" * 256})
    assert answer.status_code == 400
    assert "Idempotency-Key" in json.loads(answer.data)["error"]


def test_concurrent_repeats_are_stored_once(stack: Stack) -> None:
    answers = []

    def put() -> None:
        body = b'{"data": {"db_password": "p", "freeform": "once"}}'
        headers = {"Content-Type": "application/json", "Idempotency-Key": "same"}
        answers.append(stack.request("PUT", "/api/iot", body, headers))

    threads = [threading.Thread(target=put) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {(answer.status, answer.body) for answer in answers} == {
        (201, b'{"success":"1 object(s) created"}\n')
    }
    wait_until(lambda: stack.read("p"), what="the reading")
    stack.put([{"data": {"db_password": "p", "freeform": "after"}}])
    rows = wait_until(lambda: [row for row in stack.read("p") if row["freeform"] == '"after"'])
    assert rows
    assert [row["freeform"] for row in stack.read("p")] == ['"once"', '"after"']
