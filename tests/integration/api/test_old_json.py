"""JSON that only the parser of the old server accepted is stored and returned unchanged by each
read.
"""

import json
from collections.abc import Iterable

import pytest
from redis import Redis

from integration.api.asking import JSON, PASSWORD, Api, assert_error, row
from iot_writer.writer import Writer
from support.draining import drain_all
from support.stack import Stack
from support.waiting import wait_until

TEXTS = (
    "NaN",
    '{"temperature": NaN, "range": [-Infinity, Infinity], "unit": "NaN"}',
    '"half a pair: \\ud800"',
    '{"\\uDEAD": "\\\\ud800 NaN"}',
    "[" + "NaN, -Infinity, " * 20_000 + "0]",  # sent in several pieces
)


def body_of(texts: Iterable[str], **data: object) -> str:
    """Return a list of rows with these JSON texts as freeform, one a second."""
    rows = []
    for place, text in enumerate(texts):
        begin = json.dumps(row(relative_time=place, interrogator_time=place, **data))
        rows.append(begin.removesuffix("}}") + f', "freeform": {text}}}}}')
    return f"[{', '.join(rows)}]"


def put(api: Api, body: str | bytes) -> None:
    answer = api.ask("PUT", "/api/iot", body, JSON)
    assert answer.status_code == 201, answer.text


def as_the_old_server(text: str) -> str:
    """Return a text as the old server stored and returned it: the JSON of Python."""
    return json.dumps(json.loads(text))


def test_every_read_returns_the_json_that_was_sent(
    api: Api, writer: Writer, redis: "Redis"
) -> None:
    put(api, body_of(TEXTS))
    drain_all(writer)
    expected = [*TEXTS]
    for path in ("", "/0", "/0/100", "/last/100", "/seconds/60"):
        texts = [each["freeform"] for each in api.read(path)]
        assert texts == expected, path
        assert [*map(as_the_old_server, texts)] == [*map(as_the_old_server, TEXTS)]
    redis.delete(*redis.keys("iot:hot:cover:*"))
    assert [each["freeform"] for each in api.read("/seconds/60")] == expected


def test_responses_are_strict_json(api: Api, writer: Writer) -> None:
    """`freeform` is a string, so only clients that parse the string must accept `NaN`."""
    put(api, body_of(TEXTS))
    drain_all(writer)

    def refuse(name: str) -> None:
        raise AssertionError(name)

    (first, *_) = json.loads(api.post().data, parse_constant=refuse)["data"]
    assert first["freeform"] == "NaN"


@pytest.mark.parametrize(
    "encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le"]
)
def test_utf_16_and_utf_32_bodies_are_accepted(api: Api, writer: Writer, encoding: str) -> None:
    password = "Schlüssel 😀"
    text = json.dumps([row(password, freeform={"é": "日"})], ensure_ascii=False)
    put(api, text.encode(encoding))
    drain_all(writer)
    asked = json.dumps({"data": {"db_password": password}}, ensure_ascii=False).encode(encoding)
    answer = api.ask("POST", "/api/iot", asked, JSON)
    (reading,) = json.loads(answer.data)["data"]
    assert json.loads(reading["freeform"]) == {"é": "日"}
    assert answer.data == api.post(password=password).data


def test_escaped_and_plain_passwords_are_the_same(api: Api, writer: Writer) -> None:
    put(api, '{"data": {"db_password": "\\ud83d\\ude00 \\\\ NaN", "freeform": Infinity}}')
    drain_all(writer)
    assert [each["freeform"] for each in api.read(password="😀 \\ NaN")] == ["Infinity"]
    asked = '{"data": {"db_password": "\\ud83d\\ude00 \\\\ NaN", "other": NaN}}'
    answer = api.ask("POST", "/api/iot", asked, JSON)
    assert [each["freeform"] for each in json.loads(answer.data)["data"]] == ["Infinity"]


def test_a_password_with_escaped_digits_is_not_changed(api: Api, writer: Writer) -> None:
    """A placeholder for `NaN` with the same digit would be replaced by `NaN`."""
    digits = "".join(rf"[\u003{digit}]" for digit in range(1, 10))
    put(api, f'{{"data": {{"db_password": "{digits}", "freeform": Infinity}}}}')
    drain_all(writer)
    password = json.loads(f'"{digits}"')
    assert [each["freeform"] for each in api.read(password=password)] == ["Infinity"]
    asked = f'{{"data": {{"db_password": "{digits}", "other": NaN}}}}'
    assert api.ask("POST", "/api/iot", asked, JSON).data == api.post(password=password).data


def test_a_lone_surrogate_in_a_password_is_refused(api: Api) -> None:
    body = '{"data": {"db_password": "\\ud800"}}'
    for method in ("PUT", "POST"):
        error = assert_error(api.ask(method, "/api/iot", body, JSON), 400, "invalid_request")
        assert error["field"] == "db_password"
        assert "half a surrogate pair" in error["error"]


def test_times_are_stored_exactly(api: Api, writer: Writer) -> None:
    texts = ["9007199254740993.0", "1.710754759123456789e18", "-9007199254740993.9", "-0.0", "7"]
    rows = [f'{{"data": {{"db_password": "{PASSWORD}", "relative_time": {each},'
            f' "interrogator_time": {each}, "freeform": NaN}}}}' for each in texts]  # fmt: skip
    put(api, f"[{','.join(rows)}]")
    drain_all(writer)
    expected = [-9007199254740993, 0, 7, 9007199254740993, 1710754759123456789]
    readings = api.read()
    assert [each["interrogator_timestamp"] for each in readings] == expected
    assert [each["relative_timestamp"] for each in readings] == expected


def test_times_of_several_passwords_stay_with_their_rows(api: Api, writer: Writer) -> None:
    put(api, json.dumps([row(str(n % 3), relative_time=n + 0.5) for n in range(30)]))
    drain_all(writer)
    for password in range(3):
        times = [each["relative_timestamp"] for each in api.read(password=str(password))]
        assert times == list(range(password, 30, 3))


@pytest.mark.parametrize("media_type", ["application/json", "application/x-ndjson"])
def test_a_reading_of_a_disconnected_sensor_over_the_processes(
    stack: Stack, media_type: str
) -> None:
    body = body_of(TEXTS)[1:-1].replace("}}, {", "}}\n{") if "nd" in media_type else body_of(TEXTS)
    answer = stack.request("PUT", "/api/iot", body.encode(), {"Content-Type": media_type})
    assert answer.status == 201, answer.body
    wait_until(lambda: len(stack.read(PASSWORD)) == len(TEXTS), what="all readings")
    assert [each["freeform"] for each in stack.read(PASSWORD)] == list(TEXTS)
