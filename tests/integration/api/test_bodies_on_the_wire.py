"""Request bodies over a socket: chunked, too long, or truncated by a closed connection."""

import http.client
import json
import socket
from collections.abc import Iterable

import pytest

from integration.api.asking import JSON, row
from iot_sensor_client import Response
from support.answers import answer_of
from support.stack import Stack
from support.waiting import wait_until

NDJSON = {"Content-Type": "application/x-ndjson"}
LIMIT = 16 * 2**20
LINE = b'{"data": {"db_password": "p"}}'


def put(stack: Stack, blocks: Iterable[bytes], headers: dict[str, str]) -> Response:
    """PUT a body without Content-Length."""
    connection = http.client.HTTPConnection("127.0.0.1", stack.port, timeout=30)
    try:
        connection.request("PUT", "/api/iot", iter(blocks), headers)
        answer = connection.getresponse()
        return Response(answer.status, answer.headers, answer.read())
    finally:
        connection.close()


def padded(size: int) -> list[bytes]:
    """Return lines padded with white space to one block each, `size` bytes in total."""
    line = LINE.ljust(2**20 - 1) + b"\n"
    return [line] * (size // 2**20) + [LINE[: size % 2**20]]


def test_chunks_are_joined_to_one_body(module_stack: Stack) -> None:
    assert put(module_stack, [b'{"data": {"db_pass', b'word": "p"}}'], JSON).status == 201


def test_a_chunked_body_up_to_the_limit_is_accepted(module_stack: Stack) -> None:
    answer = put(module_stack, padded(LIMIT), NDJSON)
    assert answer.json() == {"success": "16 object(s) created"}


@pytest.mark.parametrize("over", [1, 2**20])
def test_a_chunked_body_over_the_limit_is_refused_completely(
    module_stack: Stack, over: int
) -> None:
    """The part of the body that fits is not accepted as the whole body."""
    blocks = [*padded(LIMIT), LINE if over > 1 else b" "]
    answer = put(module_stack, blocks, NDJSON)
    assert (answer.status, answer.json()["code"]) == (413, "too_large")


def test_a_content_length_over_the_limit_is_refused_before_the_body(module_stack: Stack) -> None:
    head = f"PUT /api/iot HTTP/1.1\r\nHost: x\r\nContent-Length: {2**30}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", module_stack.port), timeout=30) as connection:
        connection.sendall(head.encode())
        status, headers, body = answer_of(connection)
        assert (status, json.loads(body)["code"]) == (413, "too_large")
        assert headers["X-Request-Id"]


@pytest.mark.parametrize(
    ("password", "framing"),
    [
        ("length", b"Content-Length: 200\r\n\r\n%b"),
        ("chunks", b"Transfer-Encoding: chunked\r\n\r\n24\r\n%b\r\n"),
    ],
)
def test_a_truncated_body_is_not_stored(module_stack: Stack, password: str, framing: bytes) -> None:
    """The received lines are complete, but the body is not."""
    head = b"PUT /api/iot HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-ndjson\r\n"
    line = b'{"data": {"db_password": "%b"}}\n' % password.encode()
    with socket.create_connection(("127.0.0.1", module_stack.port), timeout=30) as connection:
        connection.sendall(head + framing % line)
        connection.shutdown(socket.SHUT_WR)
        said = connection.makefile("rb").read()
    assert b" 201 " not in said
    assert module_stack.put([row(password, freeform="whole")]).status == 201
    read = wait_until(
        lambda: module_stack.read(password), what="the reading of the complete request"
    )
    assert {each["freeform"] for each in read} == {'"whole"'}


@pytest.mark.parametrize(
    "head",
    [
        b"PUT /api/iot HTTP/1.1\r\nHost: x\r\nContent-Length: abc\r\n\r\n",
        b"GET /" + b"x" * 5000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"nonsense\r\n\r\n",
    ],
)
def test_errors_of_gunicorn_are_json(module_stack: Stack, head: bytes) -> None:
    with socket.create_connection(("127.0.0.1", module_stack.port), timeout=10) as connection:
        connection.sendall(head)
        status, headers, body = answer_of(connection)
        assert 400 <= status < 500
        assert headers["X-Request-Id"]
        assert json.loads(body)["error"]
