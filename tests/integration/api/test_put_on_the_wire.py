"""Each form of PUT over a socket gets the answer that HTTP requires."""

import gzip
import http.client
import json
import socket
from collections.abc import Iterator

import pytest

from integration.api.asking import row
from support.answers import answer_of
from support.stack import Stack
from support.waiting import wait_until

BODY = json.dumps(row("wire", freeform="x")).encode()
TAKEN = b'{"success":"1 object(s) created"}\n'


@pytest.fixture
def client(module_stack: Stack) -> Iterator[socket.socket]:
    """A connection."""
    with socket.create_connection(("127.0.0.1", module_stack.port), timeout=30) as made:
        yield made


def head(
    *lines: bytes, path: bytes = b"/api/iot", version: bytes = b"1.1", length: int = len(BODY)
) -> bytes:
    """Return the head of a PUT of JSON."""
    every = [b"PUT %b HTTP/%b" % (path, version), b"Host: x", *lines]
    if length >= 0:
        every.append(b"Content-Length: %d" % length)
    return b"\r\n".join([*every, b"Content-Type: application/json", b"", b""])


def taken(client: socket.socket) -> http.client.HTTPMessage:
    status, headers, body = answer_of(client)
    assert (status, body) == (201, TAKEN)
    assert headers["Content-Type"] == "application/json"
    return headers


def test_requests_on_one_connection(client: socket.socket) -> None:
    ids = set()
    for _ in range(5):
        client.sendall(head() + BODY)
        headers = taken(client)
        assert headers["Connection"] == "keep-alive"
        ids.add(headers["X-Request-Id"])
    assert len(ids) == 5


def test_different_paths_on_one_connection(client: socket.socket) -> None:
    for path in (b"/api/iot", b"/api/iot?ack=queued", b"/api/iot/", b"/api/rssi", b"/api/iot?"):
        client.sendall(head(path=path) + BODY)
        taken(client)


def test_pipelined(client: socket.socket) -> None:
    """Requests sent before the first answer are answered in order."""
    bad = b"no JSON"
    requests = [
        head() + BODY,
        head(length=len(bad)) + bad,
        head(b"X-Request-Id: third") + BODY,
        b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n",
        head() + BODY,
        head(b"Connection: close") + BODY,
    ]
    client.sendall(b"".join(requests))
    said = client.makefile("rb").read()
    statuses = [part[:3] for part in said.split(b"HTTP/1.1 ")[1:]]
    assert statuses == [b"201", b"400", b"201", b"200", b"201", b"201"]
    assert said.count(b"\r\nX-Request-Id: third\r\n") == 1
    assert said.endswith(TAKEN)


@pytest.mark.parametrize("size", [1, 7, 100])
def test_a_request_in_small_packets(client: socket.socket, size: int) -> None:
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sent = head() + BODY
    for start in range(0, len(sent), size):
        client.sendall(sent[start : start + size])
    taken(client)


def test_100_continue(client: socket.socket) -> None:
    client.sendall(head(b"Expect: 100-continue"))
    said = client.recv(4096)
    assert said == b"HTTP/1.1 100 Continue\r\n\r\n"
    client.sendall(BODY)
    taken(client)


@pytest.mark.parametrize("lines", [(), (b"Connection: keep-alive",)])
def test_http_1_0(client: socket.socket, lines: tuple[bytes, ...]) -> None:
    client.sendall(head(*lines, version=b"1.0") + BODY)
    headers = taken(client)
    assert headers["Connection"] == ("keep-alive" if lines else "close")
    if lines:
        client.sendall(head(version=b"1.0") + BODY)
        taken(client)
    assert client.recv(1) == b""


def test_a_request_without_a_host(client: socket.socket) -> None:
    """Clients that write to a socket may omit it, although RFC 9112 requires 400."""
    for _ in range(2):
        client.sendall(head().replace(b"Host: x\r\n", b"") + BODY)
        taken(client)


def test_an_empty_line_behind_a_body_is_ignored(client: socket.socket) -> None:
    for _ in range(2):
        client.sendall(head() + BODY + b"\r\n")
        taken(client)


def test_a_compressed_body(client: socket.socket) -> None:
    body = gzip.compress(BODY)
    client.sendall(head(b"Content-Encoding: gzip", length=len(body)) + body)
    taken(client)


def test_a_chunked_body(client: socket.socket) -> None:
    chunks = [b"%x\r\n%b\r\n" % (len(part), part) for part in (BODY[:9], BODY[9:])]
    client.sendall(head(b"Transfer-Encoding: chunked", length=-1) + b"".join(chunks) + b"0\r\n\r\n")
    taken(client)
    client.sendall(head() + BODY)
    taken(client)


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"DELETE", b"POST"])
def test_other_methods(client: socket.socket, method: bytes) -> None:
    client.sendall(head().replace(b"PUT", method, 1) + BODY)
    said = client.recv(65536)
    assert said.startswith(b"HTTP/1.1 200 " if method == b"POST" else b"HTTP/1.1 405 ")


def test_a_request_without_a_length_has_no_body(client: socket.socket) -> None:
    client.sendall(head(length=-1))
    status, _, body = answer_of(client)
    assert (status, json.loads(body)["code"]) == (400, "invalid_request")


@pytest.mark.parametrize("path", [b"/api/iot", b"/api/iot?ack=queued"])
def test_a_truncated_body_is_refused_and_its_connection_closed(
    module_stack: Stack, client: socket.socket, path: bytes
) -> None:
    body = json.dumps(row("cut", freeform="cut")).encode()
    client.sendall(head(path=path, length=len(body) + 1) + body)
    client.shutdown(socket.SHUT_WR)
    said = client.makefile("rb").read()
    assert said.startswith(b"HTTP/1.1 400 ")
    assert module_stack.put([row("cut", freeform="whole")]).status == 201
    read = wait_until(lambda: module_stack.read("cut"), what="the reading that was sent whole")
    assert {each["freeform"] for each in read} == {'"whole"'}


def test_a_refused_request_leaves_the_connection_open(client: socket.socket) -> None:
    for body, expected in ((b"no JSON", 400), (BODY, 201), (b"[]", 400), (BODY, 201)):
        client.sendall(head(length=len(body)) + body)
        status, headers, _ = answer_of(client)
        assert (status, headers["Connection"]) == (expected, "keep-alive")
