"""Properties of all answers of the API."""

import pytest

from integration.api.asking import JSON, Api, row

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
def test_each_response_has_a_request_id(
    module_api: Api, method: str, path: str, body: str | None, status: int
) -> None:
    answers = [module_api.ask(method, path, body, JSON) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [status] * 2
    ids = {answer.headers["X-Request-Id"] for answer in answers}
    assert len(ids) == 2
    assert all(len(each) == 32 for each in ids)


@pytest.mark.parametrize(("method", "path", "body", "status"), ASKED)
def test_the_request_id_of_the_client_is_returned(
    module_api: Api, method: str, path: str, body: str | None, status: int
) -> None:
    headers = {**JSON, "X-Request-Id": "trace-1.a_B"}
    answer = module_api.ask(method, path, body, headers)
    assert (answer.status_code, answer.headers["X-Request-Id"]) == (status, "trace-1.a_B")


@pytest.mark.parametrize("given", ["", "a b", "x" * 129, "a;b", "é", "<script>"])
def test_an_unsafe_request_id_is_replaced(module_api: Api, given: str) -> None:
    answer = module_api.ask("GET", "/healthz", headers={"X-Request-Id": given})
    assert answer.headers["X-Request-Id"] != given
    assert len(answer.headers["X-Request-Id"]) == 32


def test_json_ends_with_a_newline_as_in_the_old_server(module_api: Api) -> None:
    assert module_api.put(row()).data == b'{"success":"1 object(s) created"}\n'
    assert module_api.post(password="nobody").data == b'{"data":[]}\n'
