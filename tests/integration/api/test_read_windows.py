"""The readings that each route returns, under both prefixes."""

import pytest

from integration.api.asking import Api, assert_error, row
from iot_writer.writer import Writer
from support.draining import drain_all

PREFIXES = ("/api/iot", "/api/rssi")
RELATIVE = (-7, 0, 1, 5, 5, 10, 2**62)


@pytest.fixture(scope="module")
def filled(module_api: Api, module_writer: Writer) -> Api:
    """Readings with the relative times above, in several segments."""
    api, writer = module_api, module_writer
    for number, relative in enumerate(RELATIVE):
        api.put(row(relative_time=relative, interrogator_time=number))
        if number % 3 == 0:
            drain_all(writer)
    drain_all(writer)
    return api


def relatives(api: Api, path: str) -> list[int]:
    answers = [api.post(prefix + path) for prefix in PREFIXES]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert answers[0].data == answers[1].data
    return [each["relative_timestamp"] for each in answers[0].get_json()["data"]]


@pytest.mark.parametrize(
    ("path", "low", "high"),
    [
        ("", None, None),
        ("/0", 0, None),
        ("/5", 5, None),
        ("/-7", -7, None),
        ("/-6", -6, None),
        ("/1e1", 10, None),
        ("/4.9", 4, None),  # truncated, like int() in the old server
        ("/-6.9", -6, None),
        ("/+5", 5, None),
        ("/9223372036854775807", 2**63 - 1, None),
        ("/-9223372036854775808", None, None),
        ("/0/5", 0, 5),
        ("/5/5", 5, 5),
        ("/-100/-1", -100, -1),
        ("/1e0/1.0e1", 1, 10),
        ("/6/9", 6, 9),
        ("/-9223372036854775808/9223372036854775807", None, None),
    ],
)
def test_a_window_of_relative_time(
    filled: Api, path: str, low: int | None, high: int | None
) -> None:
    wanted = [
        relative
        for relative in RELATIVE
        if (low is None or relative >= low) and (high is None or relative <= high)
    ]
    assert relatives(filled, path) == wanted


@pytest.mark.parametrize("path", ["/6/5", "/1/-1", "/9e18/0", "/last/0", "/seconds/0"])
def test_zero_readings_are_an_empty_list(filled: Api, path: str) -> None:
    assert relatives(filled, path) == []


@pytest.mark.parametrize(("count", "given"), [("1", 1), ("3", 3), ("2.9", 2), ("7", 7), ("1e3", 7)])
def test_the_last_n(filled: Api, count: str, given: int) -> None:
    assert relatives(filled, f"/last/{count}") == list(RELATIVE[-given:])


@pytest.mark.parametrize("count", ["60", "6e1", "60.5", "299", "301", "86400", "9e18"])
def test_the_last_seconds(filled: Api, count: str) -> None:
    assert relatives(filled, f"/seconds/{count}") == list(RELATIVE)


@pytest.mark.parametrize("text", ["x", "0x10", "nan", "inf", "-inf", "1_000", "1,5", "5;"])
@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/{}", "start"),
        ("/{}/5", "start"),
        ("/5/{}", "end"),
        ("/seconds/{}", "seconds"),
        ("/last/{}", "last"),
    ],
)
def test_an_invalid_number_is_named(module_api: Api, path: str, field: str, text: str) -> None:
    answer = module_api.post("/api/iot" + path.format(text))
    error = assert_error(answer, 400, "invalid_request")
    assert (error["field"], error["error"]) == (field, f"{field}: is not a number")


@pytest.mark.parametrize("text", ["9223372036854775808", "-9223372036854775809", "1e19", "1e400"])
def test_a_number_beyond_64_bits_is_named(module_api: Api, text: str) -> None:
    for path, field in (("", "start"), ("/5", "end"), ("/seconds", "seconds"), ("/last", "last")):
        error = assert_error(module_api.post(f"/api/iot{path}/{text}"), 400, "invalid_request")
        assert error["error"] == f"{field}: is beyond 64 bits"


@pytest.mark.parametrize("path", ["seconds", "last"])
def test_a_negative_count_is_refused(module_api: Api, path: str) -> None:
    error = assert_error(module_api.post(f"/api/iot/{path}/-1"), 400, "invalid_request")
    assert (error["field"], error["error"]) == (path, f"{path}: must not be negative")
