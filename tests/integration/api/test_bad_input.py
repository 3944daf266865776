"""Each row of the bad-input table of the HTTP API is refused, and no reading of it is stored."""

import json
from typing import Any

import psycopg
import pytest
from redis import Redis

from integration.api.asking import JSON, Api, assert_error, row
from iot_writer.writer import Writer
from support.draining import drain_all
from support.keys import KEYS

SECRET = "correct horse battery staple"
BEYOND = (2**63, -(2**63) - 1, 10**40, 1e19, 1e30, str(2**63), "1e30", "-1e19")
NO_TIMES = ("soon", "", "0x10", "12 s", "1,5", "nan", "inf", "--1", None, True, [1], {"a": 1})


def nothing_waits(redis: "Redis") -> bool:
    return not redis.keys("iot:ingest:*") and not redis.llen(KEYS.job_list)


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ("[]", "the request holds no readings"),
        ("", "the request holds no readings"),
        (" \n", "the request holds no readings"),
        ('"x"', "the request must be an object or a list of objects"),
        ("5", "the request must be an object or a list of objects"),
        ("null", "the request must be an object or a list of objects"),
    ],
)
def test_a_body_without_rows_is_refused(
    module_api: Api, module_redis: "Redis", body: str, sentence: str
) -> None:
    error = assert_error(module_api.ask("PUT", "/api/iot", body, JSON), 400, "invalid_request")
    assert error["error"] == sentence
    assert nothing_waits(module_redis)


@pytest.mark.parametrize(
    "body",
    [
        "not JSON",
        "{",
        '[{"data": {}}',
        '{"data": {}} and more',
        "<xml/>",
        '{"data": {"freeform": nan}}',
        '{"data": {"freeform": -NaN}}',
        '{"data": {"freeform": [1,]}}',
        b'{"data": {"freeform": "\xff"}}',
        b'\xff\xfe{\x00"\x00',
        '{"data": {"freeform": ' + "[" * 100_000 + "}}",
    ],
)
def test_invalid_json_is_refused(module_api: Api, module_redis: "Redis", body: str | bytes) -> None:
    error = assert_error(module_api.ask("PUT", "/api/iot", body, JSON), 400, "invalid_request")
    assert error["error"].startswith(("the request", "row 1, data: is not JSON: "))
    assert nothing_waits(module_redis)


@pytest.mark.parametrize(
    ("rows", "at", "field", "problem"),
    [
        ({}, 0, "data", "is missing"),
        ([row(), {}], 1, "data", "is missing"),
        ([row(), {"Data": {}}], 1, "data", "is missing"),
        ([row(), row(), 5], 2, "data", "is missing, the row is not an object"),
        ([None], 0, "data", "is missing, the row is not an object"),
        ({"data": None}, 0, "data", "is not an object"),
        ([row(), {"data": []}], 1, "data", "is not an object"),
        ([row(), {"data": {"db_password": 5}}], 1, "db_password", "is not a string"),
        ([row(), {"data": {"db_password": None}}], 1, "db_password", "is not a string"),
        ([row(), row("x" * 1025)], 1, "db_password", "is longer than 1024 bytes"),
        ([row(), row("é" * 513)], 1, "db_password", "is longer than 1024 bytes"),
    ],
)
def test_an_invalid_row_is_named(
    module_api: Api, module_redis: "Redis", rows: Any, at: int, field: str, problem: str
) -> None:
    error = assert_error(module_api.put(rows), 400, "invalid_request")
    assert (error["row"], error["field"]) == (at, field)
    assert error["error"] == f"row {at}, {field}: {problem}"
    assert nothing_waits(module_redis)


@pytest.mark.parametrize("value", NO_TIMES)
@pytest.mark.parametrize(
    ("field", "problem"),
    [
        ("relative_time", "is not a number"),
        ("interrogator_time", "is neither a number nor a date"),
    ],
)
def test_an_invalid_time_is_named(
    module_api: Api, module_redis: "Redis", value: object, field: str, problem: str
) -> None:
    error = assert_error(
        module_api.put([row(), row(), row(**{field: value})]), 400, "invalid_request"
    )
    assert error == {
        "error": f"row 2, {field}: {problem}",
        "code": "invalid_request",
        "row": 2,
        "field": field,
    }
    assert nothing_waits(module_redis)


@pytest.mark.parametrize("value", BEYOND)
@pytest.mark.parametrize("field", ["relative_time", "interrogator_time"])
def test_a_time_beyond_64_bits_is_named(module_api: Api, value: object, field: str) -> None:
    error = assert_error(module_api.put([row(), row(**{field: value})]), 400, "invalid_request")
    assert error["error"] == f"row 1, {field}: is beyond 64 bits"
    assert (error["row"], error["field"]) == (1, field)


@pytest.mark.parametrize("text", ["1e400", "-1e400", "1e999999999", "1" + "0" * 5000])
def test_a_time_beyond_a_float_is_named(module_api: Api, text: str) -> None:
    body = '[{"data": {}}, {"data": {"interrogator_time": ' + text + "}}]"
    error = assert_error(module_api.ask("PUT", "/api/iot", body, JSON), 400, "invalid_request")
    assert error["error"] == "row 1, interrogator_time: is beyond 64 bits"


def test_a_time_beyond_64_bits_does_not_affect_later_readings(api: Api, writer: Writer) -> None:
    """The old server answered 201 and then lost all later readings."""
    assert api.put(row(interrogator_time=2**63)).status_code == 400
    assert api.put(row(interrogator_time=2**63 - 1)).status_code == 201
    assert api.put(row(interrogator_time=-(2**63))).status_code == 201
    drain_all(writer)
    assert [each["interrogator_timestamp"] for each in api.read()] == [-(2**63), 2**63 - 1]


def test_a_second_password_sees_its_own_readings(api: Api, writer: Writer) -> None:
    assert api.put(row("one", freeform=1)).status_code == 201
    assert api.put(row("two", freeform=2)).status_code == 201
    drain_all(writer)
    assert [each["freeform"] for each in api.read(password="one")] == ["1"]
    assert [each["freeform"] for each in api.read(password="two")] == ["2"]


def test_a_wrong_password_reads_like_an_empty_vault(
    api: Api, writer: Writer, postgres: psycopg.Connection
) -> None:
    api.put(row("one"))
    drain_all(writer)
    api.put(row("empty"))  # an empty vault
    wrong, empty = api.post(password="wrong"), api.post(password="empty")
    assert (wrong.status_code, wrong.data) == (empty.status_code, empty.data)
    assert (wrong.status_code, wrong.json) == (200, {"data": []})
    assert set(wrong.headers.keys()) == set(empty.headers.keys())
    assert postgres.execute("SELECT count(*) FROM vaults").fetchone() == (2,)


@pytest.mark.parametrize(
    "body", ["[]", "{}", '"x"', "", "no", '{"data": 5}', '{"data": {"db_password": 5}}']
)
def test_an_invalid_read_body_names_the_form(module_api: Api, body: str) -> None:
    for path in ("/api/iot", "/api/iot/maxtime", "/api/rssi/5"):
        error = assert_error(module_api.ask("POST", path, body, JSON), 400, "invalid_request")
        form = 'the body must have the form {"data": {"db_password": "..."}}'
        assert error["error"] == (f"the body is not JSON: {form}" if body in {"", "no"} else form)


def test_an_invalid_body_of_the_live_stream_names_all_members(module_api: Api) -> None:
    body = '{"data": {"last": "a minute"}}'
    error = assert_error(
        module_api.ask("POST", "/api/iot/live", body, JSON), 400, "invalid_request"
    )
    members = '"db_password": "...", "after": "", "last": 0'
    assert error["error"] == f'the body must have the form {{"data": {{{members}}}}}'


@pytest.mark.parametrize(
    "path", ["/api", "/nope", "/api/iot/1/2/3", "/api/nope", "/metrics", "/static/x", "/a%00b"]
)
@pytest.mark.parametrize("method", ["GET", "PUT", "POST", "DELETE"])
def test_an_unknown_path_is_404(module_api: Api, method: str, path: str) -> None:
    error = assert_error(module_api.ask(method, path), 404, "not_found")
    assert error["error"] == "there is nothing at this path"


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/api/iot", {"PUT", "POST", "OPTIONS"}),
        ("DELETE", "/api/rssi", {"PUT", "POST", "OPTIONS"}),
        ("PATCH", "/api/iot", {"PUT", "POST", "OPTIONS"}),
        ("GET", "/api/iot/5", {"POST", "OPTIONS"}),
        ("PUT", "/api/iot/5", {"POST", "OPTIONS"}),
        ("GET", "/api/iot/1/5", {"DELETE", "POST", "OPTIONS"}),
        ("GET", "/api/iot/last/5", {"DELETE", "POST", "OPTIONS"}),
        ("DELETE", "/api/iot/maxtime", {"GET", "HEAD", "POST", "OPTIONS"}),
        ("POST", "/api/audit", {"GET", "HEAD", "OPTIONS"}),
        ("POST", "/healthz", {"GET", "HEAD", "OPTIONS"}),
        ("PUT", "/", {"GET", "HEAD", "OPTIONS"}),
        ("DELETE", "/", {"GET", "HEAD", "OPTIONS"}),
    ],
)
def test_an_unsupported_method_is_405(
    module_api: Api, method: str, path: str, allowed: set[str]
) -> None:
    answer = module_api.ask(method, path)
    assert_error(answer, 405, "method_not_allowed")
    assert set(answer.headers["Allow"].split(", ")) == allowed


def test_a_web_socket_is_refused(module_api: Api) -> None:
    headers = {"Connection": "Upgrade", "Upgrade": "websocket"}
    answer = module_api.ask("GET", "/api/status", headers=headers)
    assert answer.status_code == 400
    assert answer.get_json()["error"].startswith("Upgrade: the service has no WebSocket;")


@pytest.mark.parametrize(
    "body",
    [
        {"data": {"db_password": SECRET, "relative_time": SECRET}},
        {"data": {"db_password": SECRET, "interrogator_time": SECRET}},
        {"data": {"db_password": [SECRET]}},
        {"data": SECRET},
        [SECRET],
        SECRET,
        {SECRET: SECRET},
        {"data": {"db_password": SECRET * 50}},
    ],
)
def test_no_error_contains_a_password(
    module_api: Api, body: object, caplog: pytest.LogCaptureFixture
) -> None:
    for method, path in (("PUT", "/api/iot"), ("POST", "/api/iot"), ("POST", "/api/iot/x")):
        for text in (json.dumps(body), json.dumps(body)[:-1]):
            answer = module_api.ask(method, path, text, JSON)
            assert method == "POST" or assert_error(answer, 400, "invalid_request")
            assert SECRET not in answer.text
            assert SECRET not in str(answer.headers)
    assert SECRET not in caplog.text
