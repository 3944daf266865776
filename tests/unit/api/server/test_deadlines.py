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
BURST = 190 * KIB
"""Bytes that Linux takes without waiting, after a client has read as many."""


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


@pytest.mark.parametrize("rate", [8 * KIB, 10 * KIB, 16 * KIB, 100 * KIB])
def test_a_client_that_reads_fast_enough_is_never_overdue(
    connection: Connection, rate: int
) -> None:
    assert seconds_until_overdue(connection, rate) is None


@pytest.mark.parametrize("rate", [1, KIB, 4 * KIB, 6 * KIB])
def test_a_client_that_reads_too_slowly_is_overdue(connection: Connection, rate: int) -> None:
    """The client of 6 KiB/s falls behind by a quarter of the time."""
    seconds = seconds_until_overdue(connection, rate)
    assert seconds is not None
    assert seconds <= deadlines.SEND_GRACE_SECONDS / (1 - rate / (8 * KIB)) + 0.25


def test_a_client_that_stops_is_overdue_however_fast_it_read_before(
    connection: Connection,
) -> None:
    connection.phase = Phase.SENDING
    connection.count_wait(20.0)
    for _ in range(1000):
        connection.count_sent(BURST)
    connection.start_request(object())
    connection.phase = Phase.SENDING
    assert not is_overdue(connection, 20.0 + deadlines.SEND_GRACE_SECONDS - 0.1, KEEPALIVE)
    assert is_overdue(connection, 20.0 + deadlines.SEND_GRACE_SECONDS, KEEPALIVE)


def test_a_client_that_is_behind_stays_behind_in_the_next_answer(connection: Connection) -> None:
    """Otherwise a client that pipelines could read nothing for almost the grace of each answer."""
    connection.phase = Phase.SENDING
    connection.count_wait(30.0)
    connection.start_request(object())
    connection.phase = Phase.SENDING
    assert is_overdue(connection, 30.0 + deadlines.SEND_GRACE_SECONDS - 30.0, KEEPALIVE)


def seconds_until_overdue(connection: Connection, rate: int) -> float | None:
    """Return when a client that reads `rate` bytes a second is overdue; None if it never is.

    The kernel takes a burst when the client has read as many bytes. A burst is several pieces.
    """
    connection.phase = Phase.SENDING
    bursts = 0
    for quarter in range(4 * 1000):
        now = quarter / 4
        if is_overdue(connection, now, KEEPALIVE):
            return now
        if rate * now >= (bursts + 1) * BURST:
            bursts += 1
            connection.count_wait(now)
            for _ in range(BURST // KIB):
                connection.count_sent(KIB)
    return None


@pytest.mark.parametrize("phase", [Phase.NEW, Phase.HEAD, Phase.BODY, Phase.SENDING])
def test_the_reserve_is_for_quick_clients(connection: Connection, phase: Phase) -> None:
    connection.phase = phase
    connection.body_began = 0.1
    connection.reserved = True
    assert not is_overdue(connection, deadlines.RESERVE_SECONDS - 0.1, KEEPALIVE)
    assert is_overdue(connection, deadlines.RESERVE_SECONDS, KEEPALIVE)
