"""All answers have CORS headers, including the errors of gunicorn."""

import socket
from collections.abc import Iterator
from http.client import HTTPResponse

import pytest

from integration.api.asking import JSON, Api
from integration.api.conftest import MakeApi
from integration.api.test_every_answer import ASKED
from support.stack import Stack, running_stack

ORIGIN = "https://one.example"
EXPOSED = {"Idempotent-Replayed", "Location", "Retry-After", "WWW-Authenticate", "X-Request-Id"}
PREFLIGHT = {
    "Origin": ORIGIN,
    "Access-Control-Request-Method": "PUT",
    "Access-Control-Request-Headers": "content-type,idempotency-key",
}


@pytest.mark.parametrize("origins", ["*", f"{ORIGIN}, https://two.example", "https://*.example"])
def test_a_preflight_is_answered(make_api: MakeApi, origins: str) -> None:
    answer = make_api(cors_origins=origins).ask("OPTIONS", "/api/iot", headers=PREFLIGHT)
    assert answer.status_code == 200
    assert answer.headers["Access-Control-Allow-Origin"] == ("*" if origins == "*" else ORIGIN)
    assert "PUT" in answer.headers["Access-Control-Allow-Methods"]
    allowed = answer.headers["Access-Control-Allow-Headers"]
    assert set(allowed.split(",")) == {"content-type", "idempotency-key"}


def test_another_origin_gets_no_cors_headers(make_api: MakeApi) -> None:
    answer = make_api(cors_origins="https://two.example").ask(
        "OPTIONS", "/api/iot", headers=PREFLIGHT
    )
    assert not [name for name in dict(answer.headers) if name.startswith("Access-Control")]
    assert answer.headers["Vary"] == "Origin"


@pytest.mark.parametrize(("method", "path", "body", "status"), ASKED)
def test_a_browser_may_read_the_response(
    module_api: Api, method: str, path: str, body: str | None, status: int
) -> None:
    answer = module_api.ask(method, path, body, {**JSON, "Origin": ORIGIN})
    assert answer.status_code == status
    assert answer.headers.getlist("Access-Control-Allow-Origin") == ["*"]
    (exposed,) = answer.headers.getlist("Access-Control-Expose-Headers")
    assert set(exposed.split(", ")) == EXPOSED


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        (ORIGIN, True),
        ("https://app.two.example", True),
        ("https://two.example", False),
        ("https://xtwo.example.evil.test", False),
        ("https://app.two.example.evil.test", False),
        ("http://one.example", False),
        ("null", False),
        (None, False),
    ],
)
@pytest.mark.parametrize(("method", "path", "body", "status"), ASKED)
def test_only_listed_origins_are_allowed(
    make_api: MakeApi,
    method: str,
    path: str,
    body: str | None,
    status: int,
    origin: str | None,
    *,
    allowed: bool,
) -> None:
    """A cache must not return the answer to one origin for another origin."""
    api = make_api(cors_origins=f"{ORIGIN}, https://*.two.example")
    answer = api.ask(method, path, body, {**JSON, **({"Origin": origin} if origin else {})})
    assert answer.status_code == status
    expected = [origin] if allowed else []
    assert answer.headers.getlist("Access-Control-Allow-Origin") == expected
    assert "Origin" in answer.headers.getlist("Vary")
    assert ("Access-Control-Expose-Headers" in answer.headers) == allowed


@pytest.fixture(scope="module", params=["*", "https://*.example"])
def wire(
    request: pytest.FixtureRequest,
    module_environment: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Stack]:
    """A real process that all origins or some origins may call."""
    ours = {"IOT_CORS_ORIGINS": request.param, "IOT_API_WORKERS": "1"}
    logs = tmp_path_factory.mktemp("cors")
    with running_stack(module_environment | ours, logs, writers=0) as stack:
        yield stack


def head(request_line: bytes, *lines: bytes) -> bytes:
    """Return the head of a request from a web page."""
    origin = b"Origin: " + ORIGIN.encode()
    return b"\r\n".join([request_line, b"Host: x", origin, *lines, b"", b""])


PUT = b"PUT /api/iot HTTP/1.1"


def send(stack: Stack, request: bytes) -> HTTPResponse:
    """Send a request over a new connection and return the answer."""
    with socket.create_connection(("127.0.0.1", stack.port), timeout=30) as client:
        client.sendall(request)
        answer = HTTPResponse(client, method=request.partition(b" ")[0].decode())
        answer.begin()
        answer.read()
        return answer


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (head(PUT, b"Transfer-Encoding: gzip, chunked"), 501),
        (head(PUT, b"Transfer-Encoding: chunked") + b"x\r\n", 400),
        (head(PUT, b"Content-Length: 1073741824"), 413),
    ],
    ids=["coding", "chunk", "length"],
)
def test_errors_have_cors_headers(wire: Stack, request_bytes: bytes, status: int) -> None:
    answer = send(wire, request_bytes)
    assert answer.status == status
    assert answer.headers["Access-Control-Allow-Origin"] in {"*", ORIGIN}
    assert set(answer.headers["Access-Control-Expose-Headers"].split(", ")) == EXPOSED


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (head(b"GET /%b HTTP/1.1" % (b"x" * 8192)), 414),
        (head(b"GET /healthz HTTP/1.1", b"X: " + b"x" * 65_536), 431),
    ],
    ids=["request line", "head"],
)
def test_errors_before_the_headers_are_parsed_have_cors_headers_for_every_origin(
    wire: Stack, request_bytes: bytes, status: int
) -> None:
    """If only some origins are allowed, the answer allows none, because the origin is unknown."""
    answer = send(wire, request_bytes)
    assert answer.status == status
    every = "Vary" not in answer.headers
    assert answer.headers["Access-Control-Allow-Origin"] == ("*" if every else None)
