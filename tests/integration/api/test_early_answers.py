"""Answers before the body is read: `Expect: 100-continue`, large bodies, `Connection: close`."""

import json
import socket
import time
from collections.abc import Iterator
from functools import partial
from http.client import HTTPMessage, HTTPResponse
from pathlib import Path

import pytest

from integration.api.asking import row
from iot_cipher.tokens import new_tokens_text, with_token
from iot_models.scopes import Scope
from support.answers import answer_of
from support.stack import Stack, running_stack
from support.waiting import stretched, wait_until

BODY = json.dumps(row("early", freeform="x")).encode()
LARGE = 40 * 2**20
"""Larger than `IOT_MAX_BODY_BYTES`, and than what the API discards to keep a connection."""
FLUSH_SECONDS = 0.3
"""The API adds its counts to its metrics ten times a second."""
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Api:
    """An API that needs tokens."""

    def __init__(self, stack: Stack, token: bytes) -> None:
        self.stack = stack
        self.token = token

    def head(
        self, line: bytes, *lines: bytes, length: int = len(BODY), with_token: bool = True
    ) -> bytes:
        """Return a head."""
        token = (b"Authorization: Bearer " + self.token,) if with_token else ()
        first = (line + b" HTTP/1.1", b"Host: x", *token)
        framing = (b"Content-Length: %d" % length,) if length >= 0 else ()
        return b"\r\n".join([*first, *framing, *lines, b"", b""])

    def send(self, head: bytes) -> tuple[int, HTTPMessage, bytes]:
        """Send a head over a connection of its own, and return the answer."""
        with socket.create_connection(("127.0.0.1", self.stack.port), timeout=30) as client:
            client.sendall(head)
            return answer_of(client)

    def counted(self, status: int) -> float:
        """Return how many requests were answered with a status, as `/metrics` has it."""
        metrics = self.stack.request("GET", "/metrics", port=self.stack.metrics_port)
        return sum(
            float(line.rpartition(" ")[2])
            for line in metrics.body.decode().splitlines()
            if line.startswith("iot_http_requests_total{") and f'status="{status}"' in line
        )


@pytest.fixture(scope="module")
def api(
    module_environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Api]:
    """The API, with tokens."""
    folder: Path = tmp_path_factory.mktemp("early")
    text, token = with_token(new_tokens_text(), "device", [Scope.INGEST, Scope.READ])
    (folder / "tokens.json").write_text(text, encoding="utf-8")
    environment = {**module_environment, "IOT_TOKENS_FILE": str(folder / "tokens.json")}
    with running_stack(environment, folder / "logs", writers=0, metrics=True) as stack:
        yield Api(stack, token.encode())


@pytest.fixture
def client(api: Api) -> Iterator[socket.socket]:
    """A connection."""
    with socket.create_connection(("127.0.0.1", api.stack.port), timeout=30) as made:
        yield made


REFUSED = {
    "a missing token": (401, b"PUT /api/iot", [b"Authorization: Basic x"], len(BODY)),
    "a missing scope": (403, b"POST /api/vault/password", [], len(BODY)),
    "an unknown path": (404, b"PUT /none", [], len(BODY)),
    "another method": (405, b"DELETE /api/iot", [], len(BODY)),
    "a large PUT": (413, b"PUT /api/iot", [], 2**30),
    "a large read": (413, b"POST /api/iot", [], 2**20),
    "HTML": (415, b"PUT /api/iot", [b"Content-Type: text/html"], len(BODY)),
    "HTML to a read": (415, b"POST /api/iot", [b"Content-Type: text/html"], len(BODY)),
    "brotli": (415, b"PUT /api/iot", [b"Content-Encoding: br"], len(BODY)),
    "brotli to a read": (415, b"POST /api/iot", [b"Content-Encoding: br"], len(BODY)),
    "chunks to an unknown path": (404, b"PUT /none", [b"Transfer-Encoding: chunked"], -1),
}


def refused_head(api: Api, name: str) -> bytes:
    """Return the head of a request that is refused before its body is received."""
    status, line, lines, length = REFUSED[name]
    lines = [*lines, b"Expect: 100-continue"]
    return api.head(line, *lines, length=length, with_token=status != 401)


@pytest.mark.parametrize("name", REFUSED)
def test_a_client_that_expects_100_is_refused_at_once(
    api: Api, client: socket.socket, name: str
) -> None:
    """Without `100 Continue`, the client may send the body or not, so the connection ends."""
    client.sendall(refused_head(api, name))
    answer = HTTPResponse(client)
    answer.begin()
    status = REFUSED[name][0]
    assert (answer.status, answer.headers["Connection"]) == (status, "close")
    assert json.loads(answer.read())["status"] == status
    assert client.recv(1) == b""


@pytest.mark.parametrize("framing", [b"", b"Transfer-Encoding: chunked"])
@pytest.mark.parametrize("line", [b"PUT /api/iot", b"PUT /api/iot?ack=queued", b"POST /api/iot"])
def test_an_accepted_head_gets_100_and_the_connection_stays_open(
    api: Api, client: socket.socket, line: bytes, framing: bytes
) -> None:
    lines = [b"Expect: 100-continue", *filter(None, [framing])]
    head = api.head(line, *lines, length=-1 if framing else len(BODY))
    body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY) if framing else BODY
    for _ in range(2):
        client.sendall(head)
        assert client.recv(len(CONTINUE), socket.MSG_WAITALL) == CONTINUE
        client.sendall(body)
        status, headers, _body = answer_of(client)
        assert (status in {200, 201}, headers["Connection"]) == (True, "keep-alive")


def test_an_empty_body_needs_no_100(api: Api, client: socket.socket) -> None:
    client.sendall(api.head(b"PUT /api/iot", b"Expect: 100-continue", length=0))
    status, headers, _ = answer_of(client)
    assert (status, headers["Connection"]) == (400, "keep-alive")


@pytest.mark.parametrize("name", ["a missing token", "an unknown path", "a large PUT"])
def test_a_client_that_sends_a_large_body_first_gets_the_error(
    api: Api, client: socket.socket, name: str
) -> None:
    status, line, _, _ = REFUSED[name]
    client.sendall(api.head(line, length=LARGE, with_token=status != 401))
    for _ in range(LARGE // 2**20):
        client.sendall(bytes(2**20))
    answered, headers, _body = answer_of(client)
    assert (answered, headers["Connection"]) == (status, "close")
    assert client.recv(1) == b""


@pytest.mark.parametrize("line", [b"PUT /api/iot", b"POST /api/iot"])
@pytest.mark.parametrize("chunks", [b"zz\r\n", b"1\r\nxyz", b"1;(\r\nx\r\n"])
def test_the_answer_to_a_bad_chunk_says_that_the_connection_ends(
    api: Api, client: socket.socket, line: bytes, chunks: bytes
) -> None:
    client.sendall(api.head(line, b"Transfer-Encoding: chunked", length=-1) + chunks)
    status, headers, _ = answer_of(client)
    assert (status, headers["Connection"]) == (400, "close")
    assert client.recv(1) == b""


@pytest.mark.parametrize(
    "head",
    [
        b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: TE, close\r\nTE: trailers\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: x\r\nConnection: Close\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: keep-alive,close\r\n\r\n",
    ],
)
def test_a_list_may_ask_for_the_end_of_the_connection(client: socket.socket, head: bytes) -> None:
    client.sendall(head)
    status, headers, _ = answer_of(client)
    assert (status, headers["Connection"]) == (200, "close")
    assert client.recv(1) == b""


def test_a_list_may_keep_a_connection_of_http_1_0(client: socket.socket) -> None:
    for _ in range(2):
        client.sendall(b"GET /healthz HTTP/1.0\r\nConnection: Keep-Alive, Upgrade\r\n\r\n")
        status, headers, _ = answer_of(client)
        assert (status, headers["Connection"]) == (200, "keep-alive")


def test_the_answer_names_a_version_that_the_server_implements(client: socket.socket) -> None:
    client.sendall(b"GET /healthz HTTP/1.2\r\nHost: x\r\n\r\n")
    assert client.recv(13, socket.MSG_WAITALL) == b"HTTP/1.1 200 "


MALFORMED = (
    b"GET /healthz\r\n\r\n",
    b"GET /healthz HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
    b"PUT /api/iot HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
    b"PUT /api/iot HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"PUT /api/iot HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"GET /healthz HTTP/1.1\r\nX: 1\r\n 2\r\n\r\n",
)


@pytest.mark.parametrize("head", MALFORMED)
def test_a_request_that_can_not_be_parsed_ends_the_connection(api: Api, head: bytes) -> None:
    status, headers, _ = api.send(head)
    assert (status, headers["Connection"]) == (400, "close")


def test_each_refused_request_is_counted_once(api: Api) -> None:
    statuses = {400, *(status for status, *_ in REFUSED.values())}
    time.sleep(stretched(FLUSH_SECONDS))
    expected = {status: api.counted(status) for status in statuses}
    for head in (*(refused_head(api, name) for name in REFUSED), *MALFORMED):
        status, _, _ = api.send(head)
        expected[status] += 1
        is_counted = partial(lambda of: api.counted(of) == expected[of], status)
        wait_until(is_counted, what=f"the count of {head!r}")
    time.sleep(stretched(FLUSH_SECONDS))
    assert {status: api.counted(status) for status in statuses} == expected


@pytest.mark.parametrize(
    ("line", "name"),
    [
        (b"PUT /api/iot", b"Idempotency-Key"),
        (b"PUT /api/iot/", b"idempotency-key"),
        (b"GET /api/iot/series?fields=x", b"X-Iot-Password"),
        (b"POST /api/iot/live", b"Last-Event-ID"),
    ],
)
def test_two_values_of_a_header_are_not_joined_to_another(
    api: Api, client: socket.socket, line: bytes, name: bytes
) -> None:
    client.sendall(api.head(b"PUT /api/iot") + BODY)
    assert answer_of(client)[0] == 201
    for _ in range(2):
        client.sendall(api.head(line, b"%b: a" % name, b"%b: b" % name.upper()) + BODY)
        status, _, body = answer_of(client)
        assert (status, json.loads(body)["code"]) == (400, "invalid_request")
        assert name.decode().lower() in json.loads(body)["error"].lower()
