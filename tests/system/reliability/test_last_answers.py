"""A client gets every answer that the API produced before it closed the connection."""

import json
import select
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from support.stack import Stack, running_stack
from support.waiting import wait_until

REQUESTS = 40_000
"""Their answers do not fit into the buffers of the kernels."""
RECEIVE_BYTES = 4096
BLOCKED_SECONDS = 1.0
"""If a send waits for this long, the API has stopped to read."""


@pytest.fixture(scope="module")
def processes(
    module_environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    """The processes of `api`."""
    with running_stack(module_environment, tmp_path_factory.mktemp("api")) as stack:
        yield stack


@pytest.fixture
def api(processes: Stack) -> Stack:
    """The API, which the tests share. The next test starts another one after a shutdown."""
    processes.start_missing()
    return processes


def put(password: str, number: int) -> bytes:
    """Return a PUT of one reading."""
    body = json.dumps({"data": {"db_password": password, "freeform": number}}).encode()
    head = b"PUT /api/iot HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
    return head + body


def connect(stack: Stack, resources: ExitStack) -> socket.socket:
    """Return a connection with a small receive buffer."""
    client = resources.enter_context(socket.socket())
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)
    client.settimeout(30)
    client.connect(("127.0.0.1", stack.port))
    return client


def pipeline(client: socket.socket, password: str) -> None:
    """Send requests and read no answer, until the API reads no more of them."""
    client.setblocking(False)
    sent = b"".join(put(password, number) for number in range(REQUESTS))
    while sent and select.select([], [client], [], BLOCKED_SECONDS)[1]:
        sent = sent[client.send(sent) :]
    assert sent, "the buffers have room for all requests"
    client.settimeout(30)


def received(client: socket.socket) -> list[bytes]:
    """Read to the end of the stream, in small pieces. Return the answers."""
    data = b""
    while piece := client.recv(1024):
        data += piece
    assert data.endswith(b'{"success":"1 object(s) created"}\n')
    return data.split(b"HTTP/1.1 ")[1:]


def test_a_slow_reader_gets_every_answer_at_sigterm(api: Stack, resources: ExitStack) -> None:
    """Answers fill the buffers of both kernels, and so do requests that the API has not read."""
    api.put([{"data": {"db_password": "slow reader", "freeform": "first"}}])
    client = connect(api, resources)
    pipeline(client, "slow reader")
    assert api.api is not None
    api.api.terminate()
    answers = received(client)
    client.close()
    assert {each[:3] for each in answers} == {b"201"}
    assert [b"\r\nConnection: close\r\n" in each for each in answers].index(True) == len(
        answers
    ) - 1
    assert api.api.wait(40) == 0
    print(f"{len(answers)} of {REQUESTS} requests were answered")
    api.start_missing()
    wait_until(lambda: stored(api, "slow reader") == len(answers) + 1, what="as many readings")


def stored(stack: Stack, password: str) -> int:
    return len(stack.read(password))
