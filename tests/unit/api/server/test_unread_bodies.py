"""The end of a connection: the server waits for the client's FIN, within limits."""

import time
from collections.abc import Iterator
from contextlib import suppress

import gevent
import gevent.socket
import pytest

from iot_api.server import unread_bodies
from iot_api.server.connection import Connection
from iot_api.server.connection_table import ConnectionTable
from iot_api.server.deadlines import is_overdue
from iot_api.server.phase import Phase
from iot_api.server.unread_bodies import half_close
from support.waiting import stretched


@pytest.fixture
def pair() -> Iterator[tuple[gevent.socket.socket, Connection]]:
    """A client, and the server's side of its connection."""
    with gevent.socket.create_server(("127.0.0.1", 0)) as listener:
        client = gevent.socket.create_connection(listener.getsockname())
        server, _ = listener.accept()
    with client, server:
        yield client, Connection(server, "a")


def test_the_client_gets_all_answers_although_it_still_sends(
    pair: tuple[gevent.socket.socket, Connection],
) -> None:
    client, connection = pair
    connection.client.sendall(b"answer")
    closer = gevent.spawn(half_close, connection, shuts_down=False)
    for _ in range(100):
        client.sendall(b"x" * 10_000)
    assert client.recv(100) == b"answer"
    assert client.recv(100) == b""
    assert not closer.ready()
    client.close()
    closer.get(timeout=stretched(5))


@pytest.mark.parametrize("shuts_down", [False, True])
def test_a_silent_client_is_closed_early(
    pair: tuple[gevent.socket.socket, Connection],
    monkeypatch: pytest.MonkeyPatch,
    shuts_down: bool,
) -> None:
    monkeypatch.setattr(unread_bodies, "SILENT_SECONDS", 0.1)
    client, connection = pair
    began = time.monotonic()
    half_close(connection, shuts_down=shuts_down)
    assert 0.1 <= time.monotonic() - began < stretched(2)
    assert client.recv(1) == b""


@pytest.mark.parametrize("limit", ["LINGER_SECONDS", "_LINGER_BYTES"])
def test_a_client_that_never_ends_is_closed(
    pair: tuple[gevent.socket.socket, Connection], monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    monkeypatch.setattr(unread_bodies, limit, 0.2)
    client, connection = pair

    def send() -> None:
        with suppress(OSError):
            while True:
                client.sendall(b"x" * 1000)

    sender = gevent.spawn(send)
    began = time.monotonic()
    half_close(connection, shuts_down=True)
    connection.client.close()
    assert time.monotonic() - began < stretched(2)
    sender.get(timeout=stretched(5))


def test_a_shutdown_waits_until_a_slow_reader_has_received_the_answers(
    pair: tuple[gevent.socket.socket, Connection],
) -> None:
    """The reader has ended its own side: it sends no more requests."""
    client, connection = pair
    connection.client.setblocking(False)
    sent = 0
    with suppress(BlockingIOError):
        while True:
            sent += connection.client.send(b"x" * 2**16)
    client.shutdown(gevent.socket.SHUT_WR)
    closer = gevent.spawn(half_close, connection, shuts_down=True)
    gevent.sleep(0.2)
    assert not closer.ready()
    received = 0
    while data := client.recv(2**16):
        received += len(data)
    closer.get(timeout=stretched(5))
    assert received == sent


def test_a_lingering_connection_is_the_first_to_make_room(
    pair: tuple[gevent.socket.socket, Connection],
) -> None:
    client, connection = pair
    table = ConnectionTable(limit=1, per_network=None, reserve=1)
    table.add(connection)
    closer = gevent.spawn(half_close, connection, shuts_down=True)
    gevent.sleep(0)
    assert connection.phase is Phase.LINGERING
    assert not is_overdue(connection, time.monotonic() + 60, 75)
    table.add(Connection(client, "b"))
    assert connection.closing
    closer.get(timeout=1)
