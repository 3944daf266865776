"""The plain PUT is answered as Flask answers it: the same requests sent both ways."""

import gzip
import json
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
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
from iot_api.ingest import endpoint
from iot_api.ingest.endpoint import PATHS, PlainPut
from iot_api.server import shutdown
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
    """All that a client and the metrics see of a request."""

    status: str
    body: bytes
    headers: Mapping[str, list[str]]
    counted: Mapping[tuple[str, frozenset[tuple[str, str]]], float]
    by_flask: int


@dataclass
class Ways:
    """An app, and which way its requests go."""

    api: Api
    by_flask: int = 0

    def __post_init__(self) -> None:
        plain: Any = self.api.app.wsgi_app
        assert isinstance(plain, PlainPut)
        others = vars(plain)["_others"]

        def counting(*args: Any) -> Any:
            self.by_flask += 1
            return others(*args)

        vars(plain)["_others"] = counting

    def see(
        self,
        body: bytes | str,
        headers: Mapping[str, str] = JSON,
        *,
        path: str = "/api/iot",
        method: str = "PUT",
        environ: Mapping[str, str] | None = None,
    ) -> Seen:
        """One request."""
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
        """A request both ways; it is the same."""
        plain = self.see(*args, path=path, **more)
        flask = self.see(*args, path=f"{path}?ack=queued", **more)
        assert (plain.by_flask, flask.by_flask) == (0, 1)
        assert plain.status == flask.status
        assert plain.body == flask.body
        assert plain.headers == flask.headers
        assert plain.counted == flask.counted
        return plain


def _counted() -> "Counter[tuple[str, frozenset[tuple[str, str]]]]":
    """Every counter of ours, and how often each histogram was observed."""
    counts: Counter[Any] = Counter()
    for family in REGISTRY.collect():
        for each in family.samples:
            if each.name.startswith("iot_") and each.name.endswith(("_total", "_count")):
                counts[each.name, frozenset(each.labels.items())] = each.value  # type: ignore[assignment]
    return counts


MakeWays = Callable[..., Ways]


@pytest.fixture
def make_ways(make_api: MakeApi) -> MakeWays:
    """Makes apps that have the vault of `p` open."""

    def make(**changes: Any) -> Ways:
        ways = Ways(make_api(**changes))
        ways.api.put(row())
        return ways

    return make


@pytest.fixture
def ways(make_ways: MakeWays) -> Ways:
    """An app with small limits."""
    return make_ways(**LIMITS)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("count", [1, 5])
def test_what_is_taken(ways: Ways, path: str, count: int) -> None:
    body = GOOD if count == 1 else json.dumps([row(freeform=n) for n in range(count)])
    seen = ways.same(body, path=path)
    assert seen.status == "201 CREATED"
    assert seen.body == b'{"success":"%d object(s) created"}\n' % count
    labels = {"route": path, "method": "PUT"}
    assert seen.counted == {
        ("iot_http_requests_total", frozenset({**labels, "status": "201"}.items())): 1,
        ("iot_http_request_seconds_count", frozenset(labels.items())): 1,
        ("iot_readings_acknowledged_total", frozenset()): count,
    }


def test_both_ways_store_the_same(ways: Ways, writer: Writer) -> None:
    rows = [row(relative_time=5, interrogator_time=1.5e3, freeform={"é": [1, None]})]
    ways.same(json.dumps(rows[0], ensure_ascii=False))
    ways.same(json.dumps(rows * 3))
    drain_all(writer)
    _, *stored = ways.api.read()  # the first opened the vault
    assert len(stored) == 8
    assert len({(each["freeform"], each["interrogator_timestamp"]) for each in stored}) == 1


@pytest.mark.parametrize("headers", [JSON, FORM, {"Content-Type": "text/plain"}, {}])
def test_media_types(ways: Ways, headers: dict[str, str]) -> None:
    assert ways.same(GOOD, headers).status == "201 CREATED"


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
def test_what_is_refused(ways: Ways, status: int, body: bytes | str) -> None:
    seen = ways.same(body)
    assert seen.status.startswith(f"{status} ")
    assert json.loads(seen.body)["error"]
    assert {name for name, _ in seen.counted} == {
        "iot_http_requests_total",
        "iot_http_request_seconds_count",
    }


def test_a_body_that_is_cut_off(ways: Ways) -> None:
    seen = ways.same(GOOD, environ=CUT)
    assert seen.status == "400 BAD REQUEST"
    assert b"ends before its length says" in seen.body


def test_a_body_as_large_as_may_be(ways: Ways) -> None:
    assert ways.same(GOOD.ljust(2000)).status == "201 CREATED"
    over = ways.see(GOOD.ljust(2001))
    assert (over.status, over.by_flask) == ("413 REQUEST ENTITY TOO LARGE", 1)
    assert over.body == ways.see(GOOD.ljust(2001), path="/api/iot?ack=queued").body


@pytest.mark.parametrize(
    "kind", ["text/html", "image/png", "application/jsonx", "application/x-ndjson"]
)
def test_what_is_no_plain_json_goes_to_flask(ways: Ways, kind: str) -> None:
    seen = ways.see(GOOD, {"Content-Type": kind})
    assert seen.by_flask == 1
    taken = kind == "application/x-ndjson"
    assert seen.status == ("201 CREATED" if taken else "415 UNSUPPORTED MEDIA TYPE")


def test_a_media_type_with_a_parameter(ways: Ways) -> None:
    seen = ways.see(GOOD, {"Content-Type": "application/json; charset=utf-8"})
    assert seen.status == "201 CREATED"


@pytest.mark.parametrize("anonymous", ["", "ingest"])
def test_tokens(make_api: MakeApi, tmp_path: Path, anonymous: str) -> None:
    text, tokens = new_tokens_text(), {}
    for scope in Scope:
        text, tokens[scope] = with_token(text, scope, [scope])
    path = tmp_path / "tokens.json"
    path.write_text(text, encoding="utf-8")
    ways = Ways(make_api(tokens_file=str(path), anonymous_scopes=anonymous))
    ways.see(GOOD, {**JSON, "Authorization": f"Bearer {tokens[Scope.ADMIN]}"})
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
            seen = ways.same(body, headers)
            expected = 201 if anonymous else status
            if expected == 201 and body != GOOD:
                expected = 400
            assert seen.status.startswith(f"{expected} "), authorization
            assert ("WWW-Authenticate" in seen.headers) == (expected in {401, 403})


def test_redis_away(make_ways: MakeWays, own_redis: RedisServer) -> None:
    ways = make_ways(redis_url=own_redis.url)
    own_redis.kill()
    wait_until(lambda: not own_redis.running, what="the end of Redis")
    seen = ways.same(GOOD)
    assert (seen.status, seen.headers["Retry-After"]) == ("503 SERVICE UNAVAILABLE", ["1"])
    assert ways.see(json.dumps(row("a new one"))).status == seen.status
    own_redis.start()
    assert ways.same(GOOD).status == "201 CREATED"


def test_a_full_backlog(make_ways: MakeWays) -> None:
    ways = make_ways(backlog_max_bytes=500)
    while ways.api.put(row()).status_code == 201:
        continue
    seen = ways.same(GOOD)
    assert (seen.status, seen.headers["Retry-After"]) == ("503 SERVICE UNAVAILABLE", ["5"])
    assert ways.same(json.dumps([row(freeform=random.randbytes(600).hex())])).status.startswith(
        "413 "
    )


def test_a_defect_is_500_and_logged(
    ways: Ways, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    intake = type(ways.api.app.extensions["iot"].intake)

    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(intake, "accept", broken)
    assert ways.same(GOOD).status == "500 INTERNAL SERVER ERROR"
    logged = [each.getMessage() for each in caplog.records if each.levelname == "ERROR"]
    assert len(logged) == 2
    for each in logged:
        assert re.match(r"defect in request [0-9a-f]{32}: builtins.ZeroDivisionError\n", each)


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
def test_origins(make_ways: MakeWays, origins: str) -> None:
    """Whoever names none is told the same both ways; whoever names one goes by Flask."""
    ways = make_ways(cors_origins=origins)
    for body in (GOOD, "not JSON"):
        ways.same(body)
    seen = ways.see(GOOD, {**JSON, "Origin": "https://one.example"})
    assert (seen.status, seen.by_flask) == ("201 CREATED", 1)
    allowed = seen.headers.get("Access-Control-Allow-Origin", ["nobody"])[0]
    assert allowed in ({"*", "https://one.example"} if origins else {"nobody"})
    other = ways.see(GOOD, {**JSON, "Origin": "https://evil.test"})
    assert (other.status, other.by_flask) == ("201 CREATED", 1)
    if origins != "*":
        assert "Access-Control-Allow-Origin" not in other.headers


SPECIAL: dict[str, tuple[dict[str, str], bytes]] = {
    "HTTP_CONTENT_ENCODING": ({"Content-Encoding": "gzip"}, gzip.compress(GOOD.encode())),
    "HTTP_IDEMPOTENCY_KEY": ({"Idempotency-Key": "k"}, GOOD.encode()),
    "HTTP_ORIGIN": ({"Origin": "https://one.example"}, GOOD.encode()),
    "HTTP_TRANSFER_ENCODING": ({"Transfer-Encoding": "identity"}, GOOD.encode()),
    "HTTP_X_REQUEST_ID": ({"X-Request-Id": "f" * 32}, GOOD.encode()),
}


def test_every_special_header_is_tried_here() -> None:
    assert set(SPECIAL) == vars(endpoint)["_SPECIAL"]


@pytest.mark.parametrize("name", SPECIAL)
def test_a_header_that_asks_for_more_goes_to_flask(ways: Ways, name: str) -> None:
    headers, body = SPECIAL[name]
    seen = ways.see(body, JSON | headers)
    assert (seen.status, seen.by_flask) == ("201 CREATED", 1)
    assert seen.body == b'{"success":"1 object(s) created"}\n'


def test_a_request_id_is_echoed(api: Api) -> None:
    answer = api.ask("PUT", "/api/iot", GOOD, {**JSON, "X-Request-Id": "mine-1"})
    assert answer.headers["X-Request-Id"] == "mine-1"


def test_a_key_is_remembered(api: Api, redis: "Redis") -> None:
    answers = [api.ask("PUT", "/api/iot", GOOD, {**JSON, "Idempotency-Key": "k"}) for _ in range(2)]
    assert ["Idempotent-Replayed" in each.headers for each in answers] == [False, True]
    assert sum(redis.xlen(key) for key in redis.scan_iter("iot:ingest:*", _type="stream")) == 1


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("PUT", "/api/iot/", 201),
        ("PUT", "/api/rssi/", 201),
        ("PUT", "/api/iot?", 201),
        ("PUT", "//api/iot", 404),
        ("PUT", "/api/other", 404),
        ("GET", "/api/iot", 405),
        ("HEAD", "/api/iot", 405),
        ("DELETE", "/api/iot", 405),
        ("PATCH", "/api/iot", 405),
        ("OPTIONS", "/api/iot", 200),
    ],
)
def test_other_paths_and_methods(ways: Ways, method: str, path: str, status: int) -> None:
    seen = ways.see(GOOD, path=path, method=method)
    assert seen.status.startswith(f"{status} ")
    assert seen.by_flask == (path != "/api/iot?")


@pytest.mark.parametrize("length", ["", "-1", "x", "1_0", "²", " 5"])
def test_a_length_that_is_none_goes_to_flask(ways: Ways, length: str) -> None:
    assert ways.see(GOOD, environ={"CONTENT_LENGTH": length}).by_flask == 1


@pytest.fixture
def _stopping() -> Iterator[None]:
    shutdown.requested.set()
    yield
    shutdown.requested.clear()


@pytest.mark.usefixtures("_stopping")
def test_a_process_that_ends_takes_all_by_flask(ways: Ways) -> None:
    assert ways.see(GOOD).by_flask == 1


def test_it_needs_what_the_route_needs(api: Api) -> None:
    """The plain way is a short cut of these routes, and of no others."""
    for path in PATHS:
        adapter = api.app.url_map.bind("")
        endpoint, arguments = adapter.match(path, method="PUT")
        assert arguments == {}
        assert declared_scope(api.app.view_functions[endpoint]) is Scope.INGEST
    put = {rule.rule for rule in api.app.url_map.iter_rules() if "PUT" in (rule.methods or ())}
    assert put == set(PATHS)
