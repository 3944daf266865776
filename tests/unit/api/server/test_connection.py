"""The receiving of bodies on a connection."""

import tracemalloc
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from iot_api.limits.memory_budget import MemoryBudget
from iot_api.server.connection import Connection, ConnectionReader
from iot_api.server.exchange import SizedBody

CONTENT = b"0123456789" * 20_000


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
