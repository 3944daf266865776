"""Receiving on a connection, closing it meanwhile, and the count of sent bytes."""

import tracemalloc
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import gevent.socket
import pytest

from iot_api.limits.memory_budget import MemoryBudget
from iot_api.server.connection import (
    Connection,
    ConnectionReader,
    ConnectionWriter,
    PutHead,
    PutRequest,
    SizedBody,
)
from iot_api.server.slow_send import SEND_BYTES_PER_SECOND
from iot_models.errors import UnavailableError

CONTENT = b"0123456789" * 20_000
PUT_HEAD = PutHead((1, 1), [], "/api/iot", {}, 12, expects_continue=False, closes=False)


def reader_of(receive: Callable[[int], bytes]) -> ConnectionReader:
    """Return the reader of a connection whose request has begun, and whose socket has `receive`."""
    client: Any = SimpleNamespace(recv=receive)
    connection = Connection(client, "")
    connection.request = SimpleNamespace(body=None)
    return ConnectionReader(connection, MemoryBudget(2**30))


@pytest.mark.parametrize("step", [2, 3000, 5000, 2**17])
def test_a_body_takes_little_more_memory_than_its_size(step: int) -> None:
    """However small the pieces are in which it arrives: the memory budget charges its bytes."""
    left = memoryview(CONTENT)

    def receive(size: int) -> bytes:
        nonlocal left
        piece, left = bytes(left[: min(size, step)]), left[min(size, step) :]
        return piece

    body = SizedBody(reader_of(receive), len(CONTENT))
    tracemalloc.start()
    try:
        received = body.read(len(CONTENT))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert received == CONTENT
    assert peak < 3 * len(CONTENT)


@pytest.fixture
def late_request() -> Iterator[PutRequest]:
    """A request whose head was read after its connection was closed.

    By then, four bytes of the body had arrived.
    """
    client, server = gevent.socket.socketpair()
    with client, server:
        connection = Connection(server, "")
        connection.await_request(head_began=False)
        client.sendall(b"headbody")
        connection.end(UnavailableError("closed"))
        request = PutRequest(PUT_HEAD, ConnectionReader(connection, MemoryBudget(2**20)))
        assert request.body.read(4) == b"head"
        connection.start_request(request)
        yield request


def test_a_client_can_repeat_a_request_whose_body_is_late(late_request: PutRequest) -> None:
    """An error that names the body as cut off would make a device drop its readings."""
    with pytest.raises(UnavailableError, match="closed"):
        late_request.body.read(8)
    assert late_request.body.failed
    assert late_request.must_close


def test_a_request_that_has_arrived_is_received(late_request: PutRequest) -> None:
    assert late_request.body.read(4) == b"body"
    assert not late_request.must_close


def test_bytes_that_are_sent_without_a_wait_count() -> None:
    """A compressed stream sends many small pieces in each burst, and waits for the first only."""
    client, server = gevent.socket.socketpair()
    with client, server:
        connection = Connection(server, "")
        writer = ConnectionWriter(connection, MemoryBudget(2**20))
        connection.behind = 3.0
        writer.sendall(bytes(SEND_BYTES_PER_SECOND))
        assert connection.behind == 2.0
        writer.send_parts(b"1\r\n", bytes(SEND_BYTES_PER_SECOND - 5), b"\r\n")
        assert connection.behind == 1.0
        writer.sendall(bytes(2 * SEND_BYTES_PER_SECOND))
        assert connection.behind == 0.0
