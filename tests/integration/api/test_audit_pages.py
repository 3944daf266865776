"""`GET /api/audit` returns the log page by page."""

import pytest

from integration.api.asking import Api, assert_error
from iot_writer.writer import Writer


@pytest.fixture
def logged(writer: Writer) -> int:
    """The number of records in the log."""
    for number in range(7):
        writer.audit.record(writer.postgres(), f"event {number}")
    return 7


def _ids(api: Api, query: str = "") -> list[int]:
    answer = api.ask("GET", f"/api/audit{query}")
    assert answer.status_code == 200
    return [line["id"] for line in answer.get_json()["data"]]


def test_pages_go_back_to_the_first_record(api: Api, writer: Writer, logged: int) -> None:
    found: list[int] = []
    page = _ids(api, "?limit=3")
    while page:
        found = page + found
        writer.audit.record(writer.postgres(), "meanwhile")  # changes no earlier page
        page = _ids(api, f"?limit=3&before={page[0]}")
    assert found == list(range(1, logged + 1))


def test_without_arguments_the_answer_is_as_before(api: Api, logged: int) -> None:
    assert _ids(api) == _ids(api, "?limit=1000000") == list(range(1, logged + 1))
    assert set(api.ask("GET", "/api/audit").get_json()) == {"data"}


@pytest.mark.parametrize("argument", ["limit", "before"])
@pytest.mark.parametrize("value", ["", "0", "-1", "1.5", "x"])
def test_other_arguments_are_refused(api: Api, argument: str, value: str) -> None:
    answer = api.ask("GET", f"/api/audit?{argument}={value}")
    assert assert_error(answer, 400, "invalid_request") == {
        "error": f"{argument}: must be an integer of at least 1",
        "code": "invalid_request",
        "field": argument,
    }
