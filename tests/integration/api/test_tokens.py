"""The scopes that each route requires, checked before the request is read."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from werkzeug.test import TestResponse

from integration.api.asking import JSON, PASSWORD, Api, assert_error, row
from integration.api.conftest import MakeApi
from iot_api.http.access import declared_scope
from iot_api.ingest.receipts import encode_receipt
from iot_api.limits.clients import Client
from iot_api.status import letter_actions
from iot_cipher.encryption import EntryName
from iot_cipher.tokens import new_tokens_text, with_token
from iot_models.errors import SettingsError
from iot_models.scopes import Scope
from iot_stores.stream_entries import WaitingEntry
from support.stack import Stack
from support.waiting import wait_until

RECEIPT = encode_receipt([EntryName(0, bytes(16), 1)])
EXAMPLES = {"start": "1", "end": "2", "count": "3", "receipt": RECEIPT, "name": "main.js"}
NEEDED: dict[str, dict[str, Scope | None]] = {
    "PUT": {"": Scope.INGEST},
    "POST": dict.fromkeys(
        (
            "",
            "/maxtime",
            "/<start>",
            "/<start>/<end>",
            "/seconds/<count>",
            "/last/<count>",
            "/series",
            "/live",
        ),
        Scope.READ,
    ),
    "DELETE": {"/<start>/<end>": Scope.ADMIN},
    "GET": {"/maxtime": Scope.READ, "/series": Scope.READ, "/stored/<receipt>": Scope.INGEST},
}
"""The scope of each route of readings, repeated independently of the code."""
ROUTES: dict[tuple[str, str], Scope | None] = {
    (method, prefix + rule): scope
    for prefix in ("/api/iot", "/api/rssi")
    for method, rules in NEEDED.items()
    for rule, scope in rules.items()
} | {
    ("POST", "/api/vault/password"): Scope.ADMIN,
    ("DELETE", "/api/vault"): Scope.ADMIN,
    ("GET", "/api/audit"): Scope.AUDIT,
    ("GET", "/api/status"): Scope.ADMIN,
    ("POST", "/api/dead-letters/<letter>/replay"): Scope.ADMIN,
    ("DELETE", "/api/dead-letters/<letter>"): Scope.ADMIN,
    ("GET", "/healthz"): None,
    ("GET", "/readyz"): None,
    ("GET", "/openapi.json"): None,
    ("GET", "/docs"): None,
    ("GET", "/"): None,
    ("GET", "/assets/<name>"): None,
}
NEEDING = {route: scope for route, scope in ROUTES.items() if scope is not None}


class Guarded:
    """An API with tokens, and a token for each scope."""

    def __init__(self, make_api: MakeApi, path: Path, **changes: Any) -> None:
        self.path = path
        self.text = new_tokens_text()
        self.tokens: dict[tuple[Scope, ...], str] = {}
        for scopes in ((scope,) for scope in Scope):
            self.text, self.tokens[scopes] = with_token(self.text, scopes[0], scopes)
        path.write_text(self.text, encoding="utf-8")
        self.api = make_api(tokens_file=str(path), **changes)

    def ask(self, route: tuple[str, str], authorization: str | None) -> TestResponse:
        """Send a request to a route that is valid except for the token."""
        method, rule = route
        service = self.api.service
        if "<letter>" in rule:
            letters = service.stores.dead_letters
            letters.add(0, WaitingEntry(b"1-0", b"no entry", 1, 0), "a reason")
            rule = rule.replace("<letter>", next(letters.all()).letter_id)
        for name, value in EXAMPLES.items():
            rule = rule.replace(f"<{name}>", value)
        headers = JSON if authorization is None else {**JSON, "Authorization": authorization}
        body = None if method == "GET" else json.dumps(row())
        if rule.startswith("/api/vault"):
            self.api.put(row(), {"Authorization": self.bearer(Scope.ADMIN)})
        if method == "DELETE" or rule.endswith("/live"):  # of a vault without readings
            service.vaults.find_or_create(PASSWORD.encode(), Client("test"))
        if rule == "/api/vault/password":
            body = json.dumps(row(new_password="new"))
        return self.api.ask(method, rule, body, headers)

    def bearer(self, *scopes: Scope) -> str:
        """Return the header with the token of these scopes."""
        return f"Bearer {self.tokens[scopes]}"


@pytest.fixture
def guarded(make_api: MakeApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Guarded:
    monkeypatch.setattr(letter_actions, "WAIT_SECONDS", 0)  # no writer runs
    return Guarded(make_api, tmp_path / "tokens.json")


def routes(api: Api) -> Iterable[tuple[str, str, str]]:
    """Yield all routes: method, rule, endpoint."""
    for rule in api.app.url_map.iter_rules():
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}:
            yield method, rule.rule, rule.endpoint


def test_each_route_declares_its_scope(api: Api) -> None:
    for method, rule, endpoint in routes(api):
        view = api.app.view_functions[endpoint]
        assert hasattr(view, "scope"), f"{method} {rule} declares no scope"
        assert declared_scope(view) == ROUTES[method, rule]
    assert {(method, rule) for method, rule, _ in routes(api)} == set(ROUTES)


def test_a_route_without_a_scope_needs_admin(guarded: Guarded) -> None:
    guarded.api.app.add_url_rule("/new", view_func=lambda: "new")
    for scope in (Scope.INGEST, Scope.READ, Scope.AUDIT):
        assert guarded.ask(("GET", "/new"), guarded.bearer(scope)).status_code == 403
    assert guarded.ask(("GET", "/new"), None).status_code == 401
    assert guarded.ask(("GET", "/new"), guarded.bearer(Scope.ADMIN)).status_code == 200


@pytest.mark.parametrize("route", ROUTES, ids=" ".join)
def test_routes_of_each_scope(guarded: Guarded, route: tuple[str, str]) -> None:
    needed = ROUTES[route]
    for scope in Scope:
        answer = guarded.ask(route, guarded.bearer(scope))
        if needed in {None, scope} or scope is Scope.ADMIN:
            assert answer.status_code < 300, answer.text
            continue
        told = assert_error(answer, 403, "forbidden")
        assert told["error"] == f"this request needs a token with the scope {needed}"
        challenge = f'Bearer error="insufficient_scope", scope="{needed}"'
        assert answer.headers["WWW-Authenticate"] == challenge
    bare = guarded.ask(route, None)
    if needed is None:
        assert bare.status_code == 200
        return
    assert_error(bare, 401, "unauthorized")
    assert bare.headers["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize("given", ["", "Basic dXNlcjpwYXNz", "{}", "Bearerx {}", "Token {}"])
def test_an_authorization_header_without_a_bearer_token(guarded: Guarded, given: str) -> None:
    token = guarded.tokens[Scope.READ,]
    answer = guarded.ask(("POST", "/api/iot"), given.format(token))
    assert_error(answer, 401, "unauthorized")
    assert answer.headers["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize(
    "given",
    [
        "Bearer",
        "Bearer ",
        "Bearer\t{}",
        "Bearer {}x",
        "Bearer x{}",
        "Bearer {} x",
        "Bearer {}, Bearer {}",
        'Bearer "{}"',
        "Bearer token={}",
        "Bearer é",
        "Bearer " + "A" * 8000,
        "Bearer iot_" + "A" * 43,
    ],
)
def test_a_wrong_token(guarded: Guarded, given: str) -> None:
    token = guarded.tokens[Scope.READ,]
    answer = guarded.ask(("POST", "/api/iot"), given.replace("{}", token))
    assert_error(answer, 401, "unauthorized")
    assert answer.headers["WWW-Authenticate"] == 'Bearer error="invalid_token"'
    assert token not in answer.text


@pytest.mark.parametrize("given", ["Bearer {}", "bearer {}", "BEARER {}", "Bearer   {} "])
def test_a_valid_token(guarded: Guarded, given: str) -> None:
    answer = guarded.ask(("POST", "/api/iot"), given.format(guarded.tokens[Scope.READ,]))
    assert answer.status_code == 200


def test_the_token_is_checked_before_the_body_is_read(guarded: Guarded) -> None:
    limit = guarded.api.app.extensions["iot"].settings.max_body_bytes
    for body in (b"[]", b"not JSON", b"x" * (limit + 1)):
        assert_error(guarded.api.ask("PUT", "/api/iot", body, JSON), 401, "unauthorized")
    # The refusal discloses nothing about the requested data.
    for path in ("/api/iot/last/no-number", "/api/iot/stored/nothing"):
        method = "GET" if "stored" in path else "POST"
        assert_error(guarded.api.ask(method, path, None, JSON), 401, "unauthorized")


def test_unknown_paths_need_no_token(guarded: Guarded) -> None:
    assert_error(guarded.api.ask("GET", "/nope"), 404, "not_found")
    assert_error(guarded.api.ask("DELETE", "/api/iot"), 405, "method_not_allowed")


def test_a_preflight_needs_no_token(guarded: Guarded) -> None:
    headers = {
        "Origin": "https://one.example",
        "Access-Control-Request-Method": "PUT",
        "Access-Control-Request-Headers": "Authorization, Content-Type",
    }
    answer = guarded.api.ask("OPTIONS", "/api/iot", headers=headers)
    assert answer.status_code == 200
    allowed = answer.headers["Access-Control-Allow-Headers"].lower().split(", ")
    assert {"authorization", "content-type"} <= set(allowed)
    # The page may also read the refusal of the request that follows.
    refused = guarded.api.ask("PUT", "/api/iot", "[]", {**JSON, "Origin": "https://one.example"})
    assert_error(refused, 401, "unauthorized")
    assert "Access-Control-Allow-Origin" in refused.headers


def test_scopes_that_need_no_token(make_api: MakeApi, tmp_path: Path) -> None:
    guarded = Guarded(make_api, tmp_path / "tokens.json", anonymous_scopes="ingest, audit")
    for route, scope in NEEDING.items():
        expected = {401} if scope in {Scope.READ, Scope.ADMIN} else {200, 201, 202}
        assert guarded.ask(route, None).status_code in expected
        # A token that an old client sends is ignored where no token is needed.
        assert guarded.ask(route, "Basic dXNlcjpwYXNz").status_code in expected


def test_without_a_tokens_file_the_service_is_open(
    make_api: MakeApi, caplog: pytest.LogCaptureFixture
) -> None:
    api = make_api()
    assert "IOT_TOKENS_FILE is not set: every client may use this service" in caplog.messages
    assert api.put(row()).status_code == 201
    assert api.ask("GET", "/api/audit", headers={"Authorization": "nonsense"}).status_code == 200


def test_an_empty_tokens_file_admits_no_client(
    make_api: MakeApi, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "tokens.json"
    path.write_text(new_tokens_text(), encoding="utf-8")
    api = make_api(tokens_file=str(path))
    assert not [line for line in caplog.messages if "tokens" in line]
    assert_error(api.put(row()), 401, "unauthorized")


def test_an_unreadable_tokens_file_does_not_open_the_service(
    make_api: MakeApi, tmp_path: Path
) -> None:
    with pytest.raises(SettingsError, match="IOT_TOKENS_FILE can't be read"):
        make_api(tokens_file=str(tmp_path / "nothing"))


def test_processes_follow_changes_of_the_tokens_file(
    environment: dict[str, str], tmp_path: Path
) -> None:
    """After a token is created or revoked, or the file is damaged, all workers agree."""
    path = tmp_path / "tokens.json"
    path.write_text(new_tokens_text(), encoding="utf-8")
    stack = Stack({**environment, "IOT_TOKENS_FILE": str(path)}, tmp_path)
    one, first = with_token(new_tokens_text(), "first", ["ingest"])
    two, second = with_token(new_tokens_text(), "second", ["ingest"])

    def statuses(token: str) -> set[int]:
        headers = {**JSON, "Authorization": f"Bearer {token}"}
        body = json.dumps(row())
        # Workers check the file when a request arrives, so ask each.
        return {answer.status for answer in stack.ask_each_worker("PUT", "/api/iot", body, headers)}

    try:
        stack.start_api()
        assert statuses(first) == {401}
        replace(path, one)
        wait_until(lambda: statuses(first) == {201}, what="the new token")
        replace(path, two)
        wait_until(lambda: statuses(first) == {401}, what="the end of the first token")
        wait_until(lambda: statuses(second) == {201}, what="the second token")
        replace(path, two[:-10])
        log = tmp_path / "api.log"

        def each_ignores_the_file() -> bool:
            assert statuses(second) == {201}
            return log.read_text("utf-8").count("tokens is ignored") >= len(stack.workers())

        wait_until(each_ignores_the_file, what="the warning of each worker")
        assert statuses(first) == {401}
        for token in (first, second):
            assert token not in log.read_text("utf-8")
    finally:
        stack.stop()


def replace(path: Path, text: str) -> None:
    """Replace the file atomically, as Kubernetes does."""
    draft = path.with_suffix(".draft")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)
