"""The ingest endpoint answers all PUTs of readings, and no other requests, without Flask."""

import gzip
import json
import random
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY
from redis import Redis
from werkzeug.test import EnvironBuilder, run_wsgi_app

from integration.api.asking import JSON, Api, row
from integration.api.conftest import MakeApi
from iot_api.http.access import declared_scope
from iot_api.http.request import RequestDispatcher
from iot_api.ingest.endpoint import ROUTES
from iot_cipher.tokens import new_tokens_text, with_token
from iot_models.scopes import Scope
from iot_tools.local.redis_server import RedisServer
from iot_writer.writer import Writer
from support.draining import drain_all
from support.waiting import wait_until

GOOD = json.dumps(row(freeform="x"))
CUT = {"CONTENT_LENGTH": "500"}
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
LIMITS = {"max_readings": 5, "max_passwords": 2, "max_password_bytes": 20, "max_body_bytes": 2000}


@dataclass(frozen=True)
class Seen:
    """The observable results of a request, and whether Flask handled the request."""

    status: str
    body: bytes
    headers: Mapping[str, list[str]]
    counted: Mapping[tuple[str, frozenset[tuple[str, str]]], float]
    by_flask: int


@dataclass
class Counting:
    """An app with a count of the requests that reach Flask."""

    api: Api
    by_flask: int = 0

    def __post_init__(self) -> None:
        dispatcher: Any = self.api.app.wsgi_app
        assert isinstance(dispatcher, RequestDispatcher)
        others = vars(dispatcher)["_flask"]

        def counting(*args: Any) -> Any:
            self.by_flask += 1
            return others(*args)

        vars(dispatcher)["_flask"] = counting

    def see(
        self,
        body: bytes | str,
        headers: Mapping[str, str] = JSON,
        *,
        path: str = "/api/iot",
        method: str = "PUT",
        environ: Mapping[str, str] | None = None,
    ) -> Seen:
        """Send a request."""
        content = body.encode() if isinstance(body, str) else body
        builder = EnvironBuilder(
            path, method=method, headers=list(headers.items()), input_stream=BytesIO(content)
        )
        builder.content_length = len(content)
        asked = {**builder.get_environ(), **(environ or {})}
        flask, before = self.by_flask, _counted()
        pieces, status, answered = run_wsgi_app(self.api.app, asked)
        answer = b"".join(pieces)
        counted = _counted()
        counted.subtract(before)
        shown = {name: answered.getlist(name) for name, _ in answered}
        assert re.fullmatch(r"[0-9a-f]{32}", shown.pop("X-Request-Id")[0])
        return Seen(
            status,
            answer,
            shown,
            {key: value for key, value in counted.items() if value},
            self.by_flask - flask,
        )

    def same(self, *args: Any, path: str = "/api/iot", **more: Any) -> Seen:
        """Compare the answers to a request with and without an option that has no effect."""
        plain = self.see(*args, path=path, **more)
        optioned = self.see(*args, path=f"{path}?ack=queued", **more)
        assert plain == optioned
        assert plain.by_flask == 0
        return plain


def _counted() -> "Counter[tuple[str, frozenset[tuple[str, str]]]]":
    """Return all counters of the service and the counts of all histograms."""
    counts: Counter[Any] = Counter()
    for family in REGISTRY.collect():
        for each in family.samples:
            if each.name.startswith("iot_") and each.name.endswith(("_total", "_count")):
                counts[each.name, frozenset(each.labels.items())] = each.value  # type: ignore[assignment]
    return counts


MakeCounting = Callable[..., Counting]


@pytest.fixture
def make_app(make_api: MakeApi) -> MakeCounting:
    """Return a maker of apps that have the vault of `p` open."""

    def make(**changes: Any) -> Counting:
        app = Counting(make_api(**changes))
        app.api.put(row())
        return app

    return make


@pytest.fixture
def app(make_app: MakeCounting) -> Counting:
    """An app with small limits."""
    return make_app(**LIMITS)


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize("count", [1, 5])
def test_accepted_readings_are_counted(app: Counting, path: str, count: int) -> None:
    body = GOOD if count == 1 else json.dumps([row(freeform=n) for n in range(count)])
    seen = app.same(body, path=path)
    assert seen.status == "201 CREATED"
    assert seen.body == b'{"success":"%d object(s) created"}\n' % count
    labels = {"route": path, "method": "PUT"}
    assert seen.counted == {
        ("iot_http_requests_total", frozenset({**labels, "status": "201"}.items())): 1,
        ("iot_http_request_seconds_count", frozenset(labels.items())): 1,
        ("iot_readings_acknowledged_total", frozenset()): count,
        ("iot_put_body_bytes_count", frozenset()): 1,
        ("iot_put_readings_count", frozenset()): 1,
        ("iot_vault_cache_hits_total", frozenset()): 1,
    }


def test_an_option_that_changes_nothing_stores_the_same(app: Counting, writer: Writer) -> None:
    rows = [row(relative_time=5, interrogator_time=1.5e3, freeform={"é": [1, None]})]
    app.same(json.dumps(rows[0], ensure_ascii=False))
    app.same(json.dumps(rows * 3))
    drain_all(writer)
    _, *stored = app.api.read()  # the first PUT only opened the vault
    assert len(stored) == 8
    assert len({(each["freeform"], each["interrogator_timestamp"]) for each in stored}) == 1


@pytest.mark.parametrize("headers", [JSON, FORM, {"Content-Type": "text/plain"}, {}])
def test_media_types(app: Counting, headers: dict[str, str]) -> None:
    assert app.same(GOOD, headers).status == "201 CREATED"


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, ""),
        (400, "  \n"),
        (400, "[]"),
        (400, "not JSON"),
        (400, GOOD[:-1]),
        (400, b'{"data": {"freeform": "\xff"}}'),
        (400, "[" * 1999),
        (400, '"x"'),
        (400, json.dumps([row(), {}])),
        (400, json.dumps([row(), {"data": {"db_password": 5}}])),
        (400, json.dumps([row(), row(relative_time="soon")])),
        (400, json.dumps(row(interrogator_time=2**63))),
        (400, json.dumps(row("x" * 21))),
        (413, json.dumps([row()] * 6)),
        (413, json.dumps([row("a"), row("b"), row("c")])),
    ],
)
def test_invalid_bodies_are_refused(app: Counting, status: int, body: bytes | str) -> None:
    seen = app.same(body)
    assert seen.status.startswith(f"{status} ")
    assert json.loads(seen.body)["error"]
    assert {name for name, _ in seen.counted} == {
        "iot_http_requests_total",
        "iot_http_request_seconds_count",
        "iot_put_body_bytes_count",
        "iot_puts_rejected_total",
    }


def test_a_truncated_body_is_refused(app: Counting) -> None:
    seen = app.same(GOOD, environ=CUT)
    assert seen.status == "400 BAD REQUEST"
    assert b"the body was cut off before its end" in seen.body


def test_a_body_at_the_limit_is_accepted(app: Counting) -> None:
    assert app.same(GOOD.ljust(2000)).status == "201 CREATED"
    assert app.same(GOOD.ljust(2001)).status == "413 REQUEST ENTITY TOO LARGE"


@pytest.mark.parametrize(
    "kind", ["text/html", "image/png", "application/jsonx", "application/x-ndjson"]
)
def test_other_media_types(app: Counting, kind: str) -> None:
    seen = app.same(GOOD, {"Content-Type": kind})
    taken = kind == "application/x-ndjson"
    assert seen.status == ("201 CREATED" if taken else "415 UNSUPPORTED MEDIA TYPE")


def test_a_media_type_with_a_parameter(app: Counting) -> None:
    seen = app.see(GOOD, {"Content-Type": "application/json; charset=utf-8"})
    assert seen.status == "201 CREATED"


@pytest.mark.parametrize("anonymous", ["", "ingest"])
def test_tokens(make_api: MakeApi, tmp_path: Path, anonymous: str) -> None:
    text, tokens = new_tokens_text(), {}
    for scope in Scope:
        text, tokens[scope] = with_token(text, scope, [scope])
    path = tmp_path / "tokens.json"
    path.write_text(text, encoding="utf-8")
    app = Counting(make_api(tokens_file=str(path), anonymous_scopes=anonymous))
    app.see(GOOD, {**JSON, "Authorization": f"Bearer {tokens[Scope.ADMIN]}"})
    given = {
        None: 401,
        "": 401,
        "Basic dXNlcjpwYXNz": 401,
        "Bearer nobody's": 401,
        "Bearer iot_" + "A" * 43: 401,
        f"Bearer {tokens[Scope.READ]}": 403,
        f"Bearer {tokens[Scope.INGEST]}": 201,
        f"bearer  {tokens[Scope.ADMIN]}": 201,
    }
    for authorization, status in given.items():
        headers = JSON if authorization is None else {**JSON, "Authorization": authorization}
        for body in (GOOD, "not JSON"):
            seen = app.same(body, headers)
            expected = 201 if anonymous else status
            if expected == 201 and body != GOOD:
                expected = 400
            assert seen.status.startswith(f"{expected} "), authorization
            assert ("WWW-Authenticate" in seen.headers) == (expected in {401, 403})


def test_redis_away(make_app: MakeCounting, own_redis: RedisServer) -> None:
    app = make_app(redis_url=own_redis.url)
    own_redis.kill()
    wait_until(lambda: not own_redis.running, what="the end of Redis")
    seen = app.same(GOOD)
    assert (seen.status, seen.headers["Retry-After"]) == ("503 SERVICE UNAVAILABLE", ["1"])
    assert app.see(json.dumps(row("a new one"))).status == seen.status
    own_redis.start()
    assert app.same(GOOD).status == "201 CREATED"


def test_a_full_backlog(make_app: MakeCounting) -> None:
    app = make_app(backlog_max_bytes=500)
    while app.api.put(row()).status_code == 201:
        continue
    seen = app.same(GOOD)
    assert (seen.status, seen.headers["Retry-After"]) == ("503 SERVICE UNAVAILABLE", ["5"])
    assert app.same(json.dumps([row(freeform=random.randbytes(600).hex())])).status.startswith(
        "413 "
    )


def test_a_defect_is_500_and_logged(
    app: Counting, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    intake = type(app.api.service.intake)

    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(intake, "accept", broken)
    assert app.same(GOOD).status == "500 INTERNAL SERVER ERROR"
    logged = [each.getMessage() for each in caplog.records if each.levelname == "ERROR"]
    assert len(logged) == 2
    for each in logged:
        assert re.match(r"defect in request [0-9a-f]{32}: builtins.ZeroDivisionError$", each)


@pytest.mark.parametrize(
    "origins",
    [
        "*",
        "https://one.example",
        "https://one.example, https://two.example",
        "https://*.example",
        "",
    ],
)
def test_origins(make_app: MakeCounting, origins: str) -> None:
    app = make_app(cors_origins=origins)
    for body in (GOOD, "not JSON"):
        app.same(body)
    seen = app.see(GOOD, {**JSON, "Origin": "https://one.example"})
    assert (seen.status, seen.by_flask) == ("201 CREATED", 0)
    allowed = seen.headers.get("Access-Control-Allow-Origin", ["nobody"])[0]
    assert allowed in ({"*", "https://one.example"} if origins else {"nobody"})
    other = app.see(GOOD, {**JSON, "Origin": "https://evil.test"})
    assert (other.status, other.by_flask) == ("201 CREATED", 0)
    if origins != "*":
        assert "Access-Control-Allow-Origin" not in other.headers


OPTIONS: dict[str, tuple[dict[str, str], bytes]] = {
    "Content-Encoding": ({"Content-Encoding": "gzip"}, gzip.compress(GOOD.encode())),
    "Idempotency-Key": ({"Idempotency-Key": "k"}, GOOD.encode()),
    "Origin": ({"Origin": "https://one.example"}, GOOD.encode()),
    "Transfer-Encoding": ({"Transfer-Encoding": "identity"}, GOOD.encode()),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_a_put_with_an_option_does_not_reach_flask(app: Counting, name: str) -> None:
    headers, body = OPTIONS[name]
    seen = app.see(body, JSON | headers)
    assert (seen.status, seen.by_flask) == ("201 CREATED", 0)
    assert seen.body == b'{"success":"1 object(s) created"}\n'


def test_a_request_id_is_echoed(api: Api) -> None:
    answer = api.ask("PUT", "/api/iot", GOOD, {**JSON, "X-Request-Id": "mine-1"})
    assert answer.headers["X-Request-Id"] == "mine-1"


def test_a_key_is_remembered(api: Api, redis: "Redis") -> None:
    answers = [api.ask("PUT", "/api/iot", GOOD, {**JSON, "Idempotency-Key": "k"}) for _ in range(2)]
    assert ["Idempotent-Replayed" in each.headers for each in answers] == [False, True]
    assert sum(redis.xlen(key) for key in redis.scan_iter("iot:ingest:*", _type="stream")) == 1


@pytest.mark.parametrize(
    ("method", "path", "status", "by_flask"),
    [
        ("PUT", "/api/iot/", 201, 0),
        ("PUT", "/api/rssi/", 201, 0),
        ("PUT", "/api//iot//", 201, 0),
        ("PUT", "/api/iot?", 201, 0),
        ("PUT", "//api/iot", 404, 1),  # EnvironBuilder parses the first segment as a host
        ("PUT", "/api/other", 404, 1),
        ("PUT", "/api/iot/5", 405, 1),
        ("GET", "/api/iot", 405, 1),
        ("HEAD", "/api/iot", 405, 1),
        ("DELETE", "/api/iot", 405, 1),
        ("PATCH", "/api/iot", 405, 1),
        ("OPTIONS", "/api/iot", 200, 1),
    ],
)
def test_paths_and_methods(
    app: Counting, method: str, path: str, status: int, by_flask: int
) -> None:
    seen = app.see(GOOD, path=path, method=method)
    assert seen.status.startswith(f"{status} ")
    assert seen.by_flask == by_flask


@pytest.mark.parametrize("path", ["api/iot", "api//rssi/", "///api/iot"])
def test_an_unusual_path_does_not_reach_flask(app: Counting, path: str) -> None:
    seen = app.see(GOOD, environ={"PATH_INFO": path})
    assert (seen.status, seen.by_flask) == ("201 CREATED", 0)


@pytest.mark.parametrize("length", ["", "-1", "x", "1_0", "²", " 5"])
def test_an_invalid_length_does_not_reach_flask(app: Counting, length: str) -> None:
    seen = app.see(GOOD, environ={"CONTENT_LENGTH": length})
    assert (seen.status, seen.by_flask) == ("201 CREATED", 0)


def test_flask_declares_the_routes_and_their_scope(api: Api) -> None:
    """`Allow` and access checks of other methods come from Flask's routes."""
    for path in ROUTES:
        adapter = api.app.url_map.bind("")
        name, arguments = adapter.match(path, method="PUT")
        assert arguments == {}
        assert declared_scope(api.app.view_functions[name]) is Scope.INGEST
    put = {rule.rule for rule in api.app.url_map.iter_rules() if "PUT" in (rule.methods or ())}
    assert put == set(ROUTES)
