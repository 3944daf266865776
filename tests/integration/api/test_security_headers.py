"""All responses except a 201 have the security headers, whether the app or the worker answers."""

import logging
import socket
from collections.abc import Callable, Iterable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from integration.api.conftest import MakeApi
from iot_api.http.security_headers import security_headers
from iot_api.page.files import POLICY
from iot_api.server.gunicorn_worker import Limits
from support.api_worker import lone_worker

BODY = b'{"data": {"db_password": "p", "freeform": "x"}}'
EXPECTED = {
    "x-content-type-options": "nosniff",
    "cache-control": "no-store",
    "referrer-policy": "no-referrer",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
}
STRICT = "strict-transport-security"
ORIGIN = b"Origin: https://one.example"


def request(line: str, *headers: bytes, body: bytes = b"") -> bytes:
    """Return the bytes of a request."""
    lines = [f"{line} HTTP/1.1".encode(), b"Host: x", b"Content-Length: %d" % len(body), *headers]
    return b"\r\n".join([*lines, b"", body])


ANSWERS = {
    "healthz": (200, request("GET /healthz")),
    "a health check without a body": (200, request("HEAD /healthz")),
    "readings": (200, request("POST /api/iot", body=BODY)),
    "readings for a web page": (200, request("POST /api/iot", ORIGIN, body=BODY)),
    "an unknown path": (404, request("GET /nothing")),
    "an unknown method": (405, request("PATCH /api/iot")),
    "an invalid PUT": (400, request("PUT /api/iot", body=b"{")),
    "an unknown media type": (415, request("PUT /api/iot", b"Content-Type: a/b", body=BODY)),
    "a PUT that is not stored yet": (202, request("PUT /api/iot?ack=stored", body=BODY)),
    "a preflight": (
        200,
        request("OPTIONS /api/iot", ORIGIN, b"Access-Control-Request-Method: PUT"),
    ),
    "a head that cannot be parsed": (400, b"GET / HTTP/9.9\r\n\r\n"),
    "a header that cannot be parsed": (400, request("GET /healthz", b"a b: c")),
    "a long head": (431, request("GET /healthz", b"A: " + 40_000 * b"x")),
    "a transfer coding": (501, b"PUT /api/iot HTTP/1.1\r\nTransfer-Encoding: x\r\n\r\n"),
}


@pytest.fixture
def worker(make_api: MakeApi) -> Iterator[Any]:
    """A gunicorn worker that serves the API."""
    with lone_worker(logging.getLogger(__name__)) as made:
        made.wsgi = make_api(ack_stored_seconds=1).app
        made.alive = True
        yield made


def exchange(worker: Any, sent: bytes) -> tuple[int, list[tuple[str, str]]]:
    """Send a request over a new connection; return status and headers of the response."""
    client, server = socket.socketpair()
    with client, server:
        client.sendall(sent)
        client.shutdown(socket.SHUT_WR)
        worker.handle(SimpleNamespace(getsockname=lambda: ("x", 1)), server, ("127.0.0.1", 1))
        head = client.makefile("rb").read().partition(b"\r\n\r\n")[0].decode("latin-1")
    status, *lines = head.split("\r\n")
    pairs = (line.partition(": ") for line in lines)
    return int(status.split()[1]), [(name.lower(), value) for name, _, value in pairs]


def assert_secure(headers: list[tuple[str, str]], *, tls: bool = False) -> None:
    """Check that each header is there, once."""
    expected = EXPECTED | ({STRICT: "max-age=31536000"} if tls else {})
    found = [(name, value) for name, value in headers if name in {*EXPECTED, STRICT}]
    assert sorted(found) == sorted(expected.items())


@pytest.mark.parametrize("name", ANSWERS)
def test_a_response_has_each_header_once(worker: Any, name: str) -> None:
    expected, sent = ANSWERS[name]
    status, headers = exchange(worker, sent)
    assert status == expected
    assert_secure(headers)


def test_the_page_replaces_two_headers(worker: Any) -> None:
    """A browser applies all policies that it gets, and does not keep what one header forbids."""
    status, headers = exchange(worker, request("GET /"))
    assert status == 200
    found = sorted(value for name, value in headers if name in EXPECTED)
    assert found == sorted([POLICY, "no-cache", "no-referrer", "nosniff"])


def test_a_201_has_none(worker: Any) -> None:
    """Devices pay for every byte, and the body of a 201 reveals nothing."""
    status, headers = exchange(worker, request("PUT /api/iot", body=BODY))
    assert status == 201
    assert not {name for name, _ in headers} & {*EXPECTED, STRICT}


def test_a_defect_outside_the_application(worker: Any) -> None:
    def fails(_: dict[str, Any], __: Callable[..., Any]) -> Iterable[bytes]:
        raise RuntimeError

    worker.wsgi = fails
    status, headers = exchange(worker, request("GET /healthz"))
    assert status == 500
    assert_secure(headers)


def test_a_defect_inside_the_application(worker: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("iot_api.routes.health.json_response", None)
    status, headers = exchange(worker, request("GET /healthz"))
    assert status == 500
    assert_secure(headers)


def test_a_worker_without_room(worker: Any) -> None:
    """An app of the worker itself refuses the connections of the reserve."""
    worker.limit(Limits(connections=0))
    status, headers = exchange(worker, request("POST /api/iot", body=BODY))
    assert status == 503
    assert_secure(headers)


def test_strict_transport_security_only_over_https() -> None:
    assert_secure([(name.lower(), value) for name, value in security_headers(tls=False)])
    assert_secure([(name.lower(), value) for name, value in security_headers(tls=True)], tls=True)
