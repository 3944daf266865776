"""Deadlines: when a connection is too slow or silent for too long."""

import socket
from collections.abc import Iterator

import pytest

from iot_api.server import deadlines
from iot_api.server.connection import Connection
from iot_api.server.deadlines import is_overdue
from iot_api.server.phase import Phase

KEEPALIVE = 75.0
KIB = 1024


@pytest.fixture
def connection() -> Iterator[Connection]:
    """Return a connection that was accepted at 0."""
    client, server = socket.socketpair()
    with client, server:
        made = Connection(server, "a")
        made.since = made.accepted = 0.0
        yield made


@pytest.mark.parametrize(
    ("phase", "seconds"),
    [
        (Phase.NEW, deadlines.FIRST_BYTE_SECONDS),
        (Phase.HEAD, deadlines.HEAD_SECONDS),
        (Phase.IDLE, KEEPALIVE),
    ],
)
def test_silence(connection: Connection, phase: Phase, seconds: float) -> None:
    connection.phase = phase
    assert not is_overdue(connection, seconds - 0.1, KEEPALIVE)
    assert is_overdue(connection, seconds, KEEPALIVE)
    assert is_overdue(connection, 2.0, keepalive=2.0)
    assert not is_overdue(connection, 1.9, keepalive=2.0)


def test_an_answer_has_no_deadline(connection: Connection) -> None:
    connection.phase = Phase.ANSWERING
    connection.reserved = True
    assert not is_overdue(connection, 1e6, KEEPALIVE)


@pytest.mark.parametrize(
    ("received", "seconds", "overdue"),
    [
        (0, 9.9, False),
        (0, 10.1, True),
        (10 * KIB, 19.9, False),
        (10 * KIB, 20.1, True),
        (2**30, 59.9, False),
        (2**30, 60.0, True),
    ],
)
def test_bodies(connection: Connection, received: int, seconds: float, *, overdue: bool) -> None:
    connection.start_request(object())
    connection.phase = Phase.BODY
    connection.body_began, connection.body_bytes = 100.0, received
    assert is_overdue(connection, 100.0 + seconds, KEEPALIVE) == overdue


@pytest.mark.parametrize(
    ("earlier", "earlier_seconds", "sent", "seconds", "overdue"),
    [
        (0, 0, 0, 9.9, False),
        (0, 0, 0, 10.1, True),
        (0, 0, 80 * KIB, 19.9, False),
        (0, 0, 80 * KIB, 20.1, True),
        # What was read quickly before is no credit for the next piece.
        (2**30, 5, 0, 10.1, True),
        # One small piece every 9 s stays within the grace of each.
        (8 * KIB, 9, 0, 1.5, False),
        (8 * KIB, 9, 0, 2.1, True),
    ],
)
def test_sends(
    connection: Connection,
    earlier: int,
    earlier_seconds: float,
    sent: int,
    seconds: float,
    *,
    overdue: bool,
) -> None:
    connection.phase = Phase.SENDING
    connection.send_began = 100.0
    connection.piece_bytes, connection.blocked_bytes = sent, earlier + sent
    connection.blocked_before = earlier_seconds
    assert is_overdue(connection, 100.0 + seconds, KEEPALIVE) == overdue


@pytest.mark.parametrize("phase", [Phase.NEW, Phase.HEAD, Phase.BODY, Phase.SENDING])
def test_the_reserve_is_for_quick_clients(connection: Connection, phase: Phase) -> None:
    connection.phase = phase
    connection.body_began = connection.send_began = 0.1
    connection.reserved = True
    assert not is_overdue(connection, deadlines.RESERVE_SECONDS - 0.1, KEEPALIVE)
    assert is_overdue(connection, deadlines.RESERVE_SECONDS, KEEPALIVE)
