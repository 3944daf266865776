"""Idempotency-Key: a repeated request gets the first answer and stores nothing. A request with the
same key and other readings is refused.
"""

import base64
import gzip
import json
import threading
from collections import Counter
from typing import Any, cast

import pytest
from flask.testing import FlaskClient
from redis import Redis
from werkzeug.test import TestResponse

from integration.api.asking import JSON, Api, assert_error, row
from integration.api.conftest import MakeApi
from iot_api.ingest import earlier_attempts
from iot_stores.redis_client import connect_redis
from iot_writer.writer import Writer
from support.draining import drain_all
from support.keys import KEYS
from support.stack import Stack
from support.waiting import wait_until

NDJSON = {"Content-Type": "application/x-ndjson"}
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


def put(api: Api, body: object, key: str = "k", **headers: str) -> TestResponse:
    """PUT rows, or a body as it is."""
    sent = body if isinstance(body, bytes) else json.dumps(body).encode()
    return api.ask("PUT", "/api/iot", sent, {**JSON, "Idempotency-Key": key, **headers})


@pytest.mark.parametrize("drained", [False, True])
@pytest.mark.parametrize(
    "other",
    [
        row(freeform=2),
        row(freeform=1, relative_time=1),
        row(freeform=1, interrogator_time=1),
        [row(freeform=1), row(freeform=1)],
        [row(freeform=1), row(freeform=2)],
    ],
    ids=["freeform", "relative_time", "interrogator_time", "twice", "one more"],
)
def test_other_readings_with_the_same_key_are_refused(
    make_api: MakeApi, writer: Writer, other: object, drained: bool
) -> None:
    one, two = make_api(), make_api()
    assert put(one, row(freeform=1)).status_code == 201
    if drained:
        drain_all(writer)
    for api in (one, two):
        error = assert_error(put(api, other), 422, "idempotency_key_reused")
        assert "nothing was stored" in error["error"]
    assert put(two, row(freeform=1)).headers["Idempotent-Replayed"] == "true"
    assert put(two, other, "another key").status_code == 201
    drain_all(writer)
    rows = other if isinstance(other, list) else [other]
    assert len(one.read()) == 1 + len(rows)


def test_the_form_of_the_body_may_differ(api: Api, writer: Writer) -> None:
    """The fingerprint covers the readings as they are stored."""
    rows = [row("p", freeform=1, relative_time=2), row("q", freeform=3), row("p", freeform=4)]
    lines = "\n".join(map(json.dumps, rows)).encode()
    swapped = b"""[{"data": {"freeform": 3, "db_password": "q"}},
        {"data": {"relative_time": "2", "freeform": 1, "db_password": "p"}},
        {"data": {"db_password": "p", "freeform": 4}}]"""
    assert "Idempotent-Replayed" not in put(api, rows).headers
    answers = [
        put(api, rows),
        put(api, lines, **NDJSON),
        put(api, gzip.compress(lines), **NDJSON, **{"Content-Encoding": "gzip"}),
        put(api, swapped),
    ]
    assert [answer.headers.get("Idempotent-Replayed") for answer in answers] == ["true"] * 4
    drain_all(writer)
    assert (len(api.read()), len(api.read(password="q"))) == (2, 1)


def test_a_quoted_key_is_the_same_key(api: Api) -> None:
    """The form of the IETF draft is a quoted string."""
    put(api, row(), 'a "b" \\')
    again = put(api, row(), r'"a \"b\" \\"')
    assert again.headers["Idempotent-Replayed"] == "true"
    assert put(api, row(freeform=1), r'"a \"b\" \\"').status_code == 422


REQUEST = [row("kept", freeform=1), row("other", freeform=2)], {"Idempotency-Key": "k"}
"""Readings of two vaults, and headers."""
ERASE = "DELETE", "/api/vault", {"db_password": "other"}
CHANGE = "POST", "/api/vault/password", {"db_password": "other", "new_password": "new"}
CHANGE_KEPT = "POST", "/api/vault/password", {"db_password": "kept", "new_password": "moved"}


@pytest.mark.parametrize("steps", [[ERASE], [CHANGE], [CHANGE, ERASE]])
def test_a_repeat_after_a_change_of_one_vault_stores_only_the_readings_of_its_new_vault(
    api: Api, writer: Writer, steps: list[tuple[str, str, dict[str, str]]]
) -> None:
    rows, key = REQUEST
    assert api.put(rows, key).status_code == 201
    for step in steps:
        api.put([row("other", freeform=3)])  # so that it has a vault
        assert ask(api, *step).status_code == 200
        answer = api.put(rows, key)
        assert (answer.status_code, answer.get_json()) == (201, {"success": "2 object(s) created"})
        assert "Idempotent-Replayed" not in answer.headers
    assert api.put(rows, key).headers["Idempotent-Replayed"] == "true"
    drain_all(writer)
    found = [reading["freeform"] for reading in api.read(password="kept")]
    assert found == ["1"]
    assert [reading["freeform"] for reading in api.read(password="other")] == ["2"]


def test_a_repeat_after_a_change_with_a_cache_for_fewer_vaults_than_it_has(
    make_api: MakeApi, writer: Writer
) -> None:
    api = make_api(vault_cache_size=1)
    (kept, other), key = REQUEST
    rows = [other, kept]
    assert api.put(rows, key).status_code == 201
    assert ask(api, *CHANGE).status_code == 200
    assert api.put(rows, key).status_code == 201
    drain_all(writer)
    assert [len(api.read(password=password)) for password in ("kept", "other")] == [1, 1]


def test_the_new_vault_of_a_password_may_have_had_another_password(
    api: Api, writer: Writer
) -> None:
    rows, key = REQUEST
    api.put([row("third", freeform=3)])
    assert api.put(rows, key).status_code == 201
    assert ask(api, *CHANGE).status_code == 200
    assert change(api, "third", "other").status_code == 200
    assert api.put(rows, key).status_code == 201
    drain_all(writer)
    found = {each: api.read(password=each) for each in ("kept", "other", "new")}
    assert {each: [found["freeform"] for found in rows] for each, rows in found.items()} == {
        "kept": ["1"], "other": ["3", "2"], "new": ["2"],
    }  # fmt: skip


def test_repeats_between_changes_of_several_vaults_store_each_reading_once(
    api: Api, writer: Writer
) -> None:
    """Each repeat continues the latest attempt, not the first one."""
    passwords, key = ["a", "b", "c", "d"], {"Idempotency-Key": "k"}
    rows = [row(password, freeform=1) for password in passwords]
    assert api.put(rows, key).status_code == 201
    for password in passwords[1:]:
        assert change(api, password, f"new {password}").status_code == 200
        assert api.put(rows, key).status_code == 201
    drain_all(writer)
    assert [len(api.read(password=password)) for password in passwords] == [1, 1, 1, 1]


def test_a_repeat_after_more_changes_than_can_be_combined(
    api: Api, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(earlier_attempts, "MAX_COMBINATIONS", 2)
    passwords, key = ["a", "kept", "b"], {"Idempotency-Key": "k"}
    rows = [row(password, freeform=1) for password in passwords]
    assert api.put(rows, key).status_code == 201
    assert change(api, "a", "new a").status_code == 200
    assert change(api, "b", "new b").status_code == 200
    assert api.put(rows, key).status_code == 201
    drain_all(writer)
    assert [len(api.read(password=password)) for password in passwords] == [1, 1, 1]


def test_a_failover_that_loses_the_first_attempt_during_its_repeat_loses_no_reading(
    api: Api, writer: Writer, redis: "Redis", monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, key = REQUEST
    assert api.put(rows, key).status_code == 201
    (request,) = redis.keys(f"{KEYS.remembered_request(b'')}*")
    assert change(api, "other", "new").status_code == 200
    find = earlier_attempts.EarlierAttempts.find

    def find_and_lose(*arguments: Any) -> earlier_attempts.EarlierAttempt:
        found = find(*arguments)
        redis.delete(request, *redis.keys(KEYS.stream(0).removesuffix("0") + "*"))
        return found

    with monkeypatch.context() as patch:
        patch.setattr(earlier_attempts.EarlierAttempts, "find", find_and_lose)
        assert_error(api.put(rows, key), 503, "unavailable")
    assert api.put(rows, key).status_code == 201
    drain_all(writer)
    assert [len(api.read(password=password)) for password in ("kept", "other")] == [1, 1]


def test_such_a_repeat_waits_until_the_readings_of_both_attempts_are_stored(
    make_api: MakeApi, writer: Writer
) -> None:
    api = make_api(ack_stored_seconds=0)
    rows, key = REQUEST
    assert api.put(rows, key).status_code == 201
    assert ask(api, *CHANGE).status_code == 200
    answer = api.ask("PUT", "/api/iot?ack=stored", json.dumps(rows), {**JSON, **key})
    assert answer.status_code == 202
    receipt = answer.headers["Location"]
    assert api.ask("GET", receipt).status_code == 202
    drain_all(writer)
    assert api.ask("GET", receipt).status_code == 200


def test_a_repeat_after_a_change_of_all_vaults_is_another_request(api: Api, writer: Writer) -> None:
    rows, key = REQUEST
    assert api.put(rows, key).status_code == 201
    assert ask(api, *CHANGE).status_code == 200
    assert ask(api, *CHANGE_KEPT).status_code == 200
    assert api.put(rows, key).status_code == 201
    drain_all(writer)
    passwords = ["kept", "moved", "other", "new"]
    assert [len(api.read(password=each)) for each in passwords] == [1, 1, 1, 1]


def test_after_a_change_of_one_vault_other_readings_of_the_others_are_refused(
    api: Api, writer: Writer
) -> None:
    """Else they would be acknowledged, and not stored."""
    rows, key = REQUEST
    assert api.put(rows, key).status_code == 201
    assert ask(api, *CHANGE).status_code == 200
    for kept in ([row("kept", freeform=9)], [rows[0], row("kept")]):
        assert_error(api.put([*kept, rows[1]], key), 422, "idempotency_key_reused")
    assert api.put([rows[0], row("other", freeform=3)], key).status_code == 201
    drain_all(writer)
    found = {each: api.read(password=each) for each in ("kept", "other", "new")}
    assert {each: [found["freeform"] for found in rows] for each, rows in found.items()} == {
        "kept": ["1"], "other": ["3"], "new": ["2"],
    }  # fmt: skip


def test_two_forms_of_a_password_in_one_request(api: Api, writer: Writer) -> None:
    """They have one vault; the readings of both are compared."""
    rows, key = [row("\u00fc", freeform=1), row("u\u0308", freeform=2)], {"Idempotency-Key": "k"}
    assert api.put(rows, key).status_code == 201
    assert api.put(rows[::-1], key).headers["Idempotent-Replayed"] == "true"
    for other in ([row("\u00fc", freeform=3), rows[1]], [rows[0], row("u\u0308", freeform=3)]):
        assert_error(api.put(other, key), 422, "idempotency_key_reused")
    drain_all(writer)
    assert len(api.read(password="\u00fc")) == 2


def ask(api: Api, method: str, path: str, data: dict[str, str]) -> TestResponse:
    return api.ask(method, path, json.dumps({"data": data}), JSON)


def change(api: Api, password: str, new: str) -> TestResponse:
    data = {"db_password": password, "new_password": new}
    return ask(api, "POST", "/api/vault/password", data)


def test_requests_of_earlier_versions_have_no_fingerprint(api: Api, redis: "Redis") -> None:
    put(api, row())
    (name,) = redis.keys(f"{KEYS.remembered_request(b'')}*")
    answer = cast("bytes", redis.get(name))
    count, receipt, _ = answer.split(b" ")
    redis.set(name, b" ".join([count, receipt]))
    assert put(api, row(freeform=1)).headers["Idempotent-Replayed"] == "true"


NAME = base64.urlsafe_b64encode(bytes(26))
DAMAGED = [
    b"", b"5", b"x", b"x y", b"\xff\xfe", b"5 ", b"5 A", b"5 AAAA", b"5  AAAA", b"x " + NAME,
    b"5 " + NAME[:-1], b"5 " + NAME + b"\n", b"5 " + NAME + b" x y", b"-5 " + NAME,
    b"5 " + base64.urlsafe_b64encode(b"\x01" + bytes(25)),
    b"5 " + base64.urlsafe_b64encode(bytes(18) + b"\xff" * 8),
]  # fmt: skip


@pytest.mark.parametrize("waits", [False, True])
def test_a_damaged_answer_counts_as_lost(
    make_api: MakeApi,
    redis: "Redis",
    writer: Writer,
    monkeypatch: pytest.MonkeyPatch,
    *,
    waits: bool,
) -> None:
    """`waits`: only the script that appends reads the answer, as if it waited for replicas."""
    api = make_api()
    if waits:
        monkeypatch.setattr(type(api.service.stores.backlog), "first_answer", lambda *_: None)
    for number, damaged in enumerate(DAMAGED):
        put(api, row(freeform=number))
        (name,) = redis.keys(f"{KEYS.remembered_request(b'')}*")
        redis.set(name, damaged)
        assert_error(put(api, row(freeform=-number)), 503, "unavailable")
        wait_until(lambda: not redis.exists(name))  # noqa: B023 - called at once
        answer = put(api, row(freeform=-number))
        replayed = "Idempotent-Replayed" in answer.headers
        assert (answer.status_code, replayed) == (201, False), damaged
        assert put(api, row(freeform=-number)).headers["Idempotent-Replayed"] == "true"
        redis.delete(name)
    drain_all(writer)
    assert len(api.read()) == 2 * len(DAMAGED)


def test_fingerprints_tell_nothing(api: Api, redis: "Redis") -> None:
    """Each is under a key of its vault, and equal readings under two keys have two fingerprints."""
    for number in range(2):
        put(api, row("p"), f"{number}")
        put(api, row("q"), f"{number}")
    names = redis.keys(f"{KEYS.remembered_request(b'')}*")
    answers = cast("list[bytes]", redis.mget(names))
    fingerprints = {answer.split(b" ")[2] for answer in answers}
    assert len(fingerprints) == 4


def test_one_of_two_concurrent_bodies_is_stored(stack: Stack) -> None:
    answers: list[tuple[int, int]] = []

    def put_one(number: int) -> None:
        body = json.dumps(row("p", freeform=number)).encode()
        headers = {**JSON, "Idempotency-Key": "same"}
        answers.append((number, stack.request("PUT", "/api/iot", body, headers).status))

    threads = [threading.Thread(target=put_one, args=(each % 2,)) for each in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (row_stored,) = wait_until(lambda: stack.read("p"), what="the reading")
    stored = int(row_stored["freeform"])
    assert Counter(answers) == {(stored, 201): 10, (1 - stored, 422): 10}
