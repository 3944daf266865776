"""Responses of reads: short ones in one piece, long ones streamed, errors before the first byte."""

import json
from collections.abc import Callable

import pytest
from flask import Flask, Response

from iot_api.http.responses import json_response
from iot_api.limits.clients import Client
from iot_api.query import responses
from iot_api.query.pausable_read import Batches, Cursor, PausableRead, ReadSlots
from iot_api.query.responses import ReadingsStream
from iot_models.errors import DecryptionError
from iot_models.reading import Reading

FIELDS = ["absolute_timestamp", "freeform", "id", "interrogator_timestamp", "relative_timestamp"]


def stream(batches: Batches, text_of: Callable[[Cursor], str] = lambda _: "") -> ReadingsStream:
    return ReadingsStream(PausableRead(ReadSlots(2), Client("a"), lambda _: batches), text_of)


def readings_answer(batches: Batches, text_of: Callable[[Cursor], str] = lambda _: "") -> Response:
    return responses.readings_answer(stream(batches, text_of), {})


def batches(*sizes: int) -> Batches:
    number = 0
    for size in sizes:
        yield [Reading("2026-11-23 06:17:28", '{"a": 1}', number + n, n, -1) for n in range(size)]
        number += size
    return None


def body(answer: Response) -> bytes:
    return b"".join(answer.iter_encoded())


def test_json_ends_with_a_newline() -> None:
    assert body(json_response({"a": [1, "é"]})) == '{"a":[1,"é"]}\n'.encode()


@pytest.mark.parametrize("whole_bytes", [0, 150, 10**6])
@pytest.mark.parametrize("sizes", [(), (0,), (1,), (0, 3, 0), (2, 1), (1, 0, 50)])
def test_all_batches_are_one_json_list(
    sizes: tuple[int, ...], whole_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(responses, "WHOLE_BYTES", whole_bytes)
    text = body(readings_answer(batches(*sizes)))
    assert text.endswith(b"]}\n")
    data = json.loads(text)["data"]
    assert [each["id"] for each in data] == list(range(sum(sizes)))
    assert all(list(each) == FIELDS for each in data)


@pytest.mark.parametrize("sizes", [(), (3,), (1000, 50)])
def test_the_cursor_comes_last(sizes: tuple[int, ...]) -> None:
    def more() -> Batches:
        yield from batches(*sizes)
        return Cursor((7, 8))

    whole = json.loads(body(readings_answer(more(), lambda cursor: f"after-{cursor.after[1]}")))
    assert list(whole) == ["data", "cursor"]
    assert (len(whole["data"]), whole["cursor"]) == (sum(sizes), "after-8")


def test_a_short_response_has_a_length_and_a_long_one_is_streamed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(responses, "WHOLE_BYTES", 1000)
    small, long = readings_answer(batches(3)), readings_answer(batches(*[3] * 10))
    assert small.content_length == len(body(small))
    assert not small.is_streamed
    assert long.is_streamed
    assert long.content_length is None


def test_a_long_response_is_not_collected_before_it_is_sent() -> None:
    taken = 0

    def endless() -> Batches:
        nonlocal taken
        for batch in batches(*[100] * 1000):
            taken += 1
            yield batch
        return None

    answer = readings_answer(endless())
    assert taken * 100 * len(FIELDS) < responses.WHOLE_BYTES
    answer.close()


def broken_after(count: int) -> Batches:
    yield from batches(*[1000] * count)
    raise DecryptionError("a segment is damaged")


def test_an_early_error_is_raised_at_once() -> None:
    for count in (0, 1):
        with pytest.raises(DecryptionError):
            readings_answer(broken_after(count))


def test_a_late_error_truncates_the_response() -> None:
    answer = readings_answer(broken_after(10))
    came: list[bytes] = []
    with pytest.raises(DecryptionError):
        came.extend(answer.iter_encoded())
    assert came
    with pytest.raises(ValueError, match="Expecting"):
        json.loads(b"".join(came))


def test_an_abandoned_response_releases_its_readings() -> None:
    """A response that is not read to its end holds a Postgres connection."""
    closed = []

    def held() -> Batches:
        try:
            yield from batches(*[1000] * 100)
        finally:
            closed.append(True)
        return None

    answer = readings_answer(held())
    chunks = answer.iter_encoded()
    next(chunks)
    del chunks
    answer.close()
    del answer
    assert closed == [True]


def test_flask_sends_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(responses, "WHOLE_BYTES", 1000)
    app = Flask(__name__)
    app.add_url_rule("/", view_func=lambda: readings_answer(batches(*[10] * 10)))
    assert len(app.test_client().get("/").get_json()["data"]) == 100
