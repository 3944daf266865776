"""What every answer has, whatever was asked."""

import pytest

from integration.api.asking import JSON, Api, row
from integration.api.conftest import MakeApi

ORIGIN = "https://one.example"
ASKED = [
    ("GET", "/healthz", None, 200),
    ("GET", "/readyz", None, 200),
    ("PUT", "/api/iot", '{"data": {}}', 201),
    ("POST", "/api/iot", '{"data": {}}', 200),
    ("GET", "/api/iot/maxtime", None, 200),
    ("GET", "/api/audit", None, 200),
    ("OPTIONS", "/api/iot", None, 200),
    ("PUT", "/api/iot", "[]", 400),
    ("GET", "/nope", None, 404),
    ("DELETE", "/api/iot", None, 405),
]


@pytest.mark.parametrize(("method", "path", "body", "status"), ASKED)
def test_an_id_of_its_own(
    module_api: Api, method: str, path: str, body: str | None, status: int
) -> None:
    answers = [module_api.ask(method, path, body, JSON) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [status] * 2
    ids = {answer.headers["X-Request-Id"] for answer in answers}
    assert len(ids) == 2
    assert all(len(each) == 32 for each in ids)


@pytest.mark.parametrize(("method", "path", "body", "status"), ASKED)
def test_the_id_that_the_request_came_with(
    module_api: Api, method: str, path: str, body: str | None, status: int
) -> None:
    headers = {**JSON, "X-Request-Id": "trace-1.a_B"}
    answer = module_api.ask(method, path, body, headers)
    assert (answer.status_code, answer.headers["X-Request-Id"]) == (status, "trace-1.a_B")


@pytest.mark.parametrize("given", ["", "a b", "x" * 129, "a;b", "é", "<script>"])
def test_an_id_that_is_not_fit_to_log_is_replaced(module_api: Api, given: str) -> None:
    answer = module_api.ask("GET", "/healthz", headers={"X-Request-Id": given})
    assert answer.headers["X-Request-Id"] != given
    assert len(answer.headers["X-Request-Id"]) == 32


def test_a_browser_may_ask_first(module_api: Api) -> None:
    headers = {
        "Origin": ORIGIN,
        "Access-Control-Request-Method": "PUT",
        "Access-Control-Request-Headers": "Content-Type",
    }
    answer = module_api.ask("OPTIONS", "/api/iot", headers=headers)
    assert answer.status_code == 200
    assert answer.headers["Access-Control-Allow-Origin"] in {"*", ORIGIN}
    assert "PUT" in answer.headers["Access-Control-Allow-Methods"]
    assert answer.headers["Access-Control-Allow-Headers"].lower() == "content-type"


@pytest.mark.parametrize(("method", "path", "body", "status"), ASKED)
def test_a_browser_may_read_the_answer_and_its_id(
    module_api: Api, method: str, path: str, body: str | None, status: int
) -> None:
    headers = {**JSON, "Origin": ORIGIN}
    answer = module_api.ask(method, path, body, headers)
    assert answer.status_code == status
    assert answer.headers["Access-Control-Allow-Origin"] in {"*", ORIGIN}
    exposed = answer.headers["Access-Control-Expose-Headers"].split(", ")
    assert set(exposed) == {"X-Request-Id", "Retry-After", "Location"}


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [(ORIGIN, True), ("https://two.example", True), ("https://three.example", False)],
)
def test_origins_can_be_named(make_api: MakeApi, origin: str, *, allowed: bool) -> None:
    api = make_api(cors_origins=f"{ORIGIN}, https://two.example")
    answer = api.ask("GET", "/healthz", headers={"Origin": origin})
    assert answer.headers.get("Access-Control-Allow-Origin") == (origin if allowed else None)


def test_json_ends_in_a_newline_as_the_old_server_s(module_api: Api) -> None:
    assert module_api.put(row()).data == b'{"success":"1 object(s) created"}\n'
    assert module_api.post(password="nobody").data == b'{"data":[]}\n'
