"""Which connection is closed to make room for another."""

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from iot_api.server.connection import Connection
from iot_api.server.connection_table import (
    STALLED_SECONDS,
    STALLED_SEND_SECONDS,
    ConnectionTable,
    is_silent,
    too_many_connections,
)
from iot_api.server.phase import Phase
from iot_models.errors import UnavailableError

Connect = Callable[..., Connection]


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Return a maker of connections. Each one began its phase later than those before it."""
    with ExitStack() as opened:
        began = time.monotonic() - 1000

        def make(phase: Phase = Phase.ANSWERING, network: str = "a") -> Connection:
            nonlocal began
            client, server = socket.socketpair()
            opened.enter_context(client)
            connection = Connection(opened.enter_context(server), network)
            began += 1
            connection.phase, connection.since = phase, began
            if phase >= Phase.BODY:
                connection.request = object()
            return connection

        yield make


def table(connections: list[Connection], *, per_network: int | None = None) -> ConnectionTable:
    """Return a table that these connections fill."""
    made = ConnectionTable(limit=len(connections), per_network=per_network, reserve=2)
    for each in connections:
        made.add(each)
    return made


def test_there_is_room_up_to_the_limit(connect: Connect) -> None:
    held = [connect(Phase.IDLE) for _ in range(3)]
    table(held)
    assert not any(each.closing or each.reserved for each in held)


def test_the_phases_are_closed_in_order(connect: Connect) -> None:
    """The oldest of a phase is first. A connection that is answered is never closed."""
    phases = [Phase.ANSWERING, Phase.SENDING, Phase.BODY, Phase.IDLE, Phase.NEW, Phase.HEAD]
    held = [connect(phase) for phase in phases for _ in range(2)]
    full = table(held)
    order = []
    for _ in range(10):
        full.add(connect())
        (closed,) = (each for each in held if each.closing and each not in order)
        order.append(closed)
    expected = [held[number] for number in (10, 11, 8, 9, 6, 7, 4, 5, 2, 3)]
    assert order == expected
    last = connect()
    full.add(last)
    assert last.reserved


def test_the_network_with_most_connections_is_closed_first(connect: Connect) -> None:
    few = [connect(Phase.IDLE, "few") for _ in range(2)]
    many = [connect(Phase.IDLE, "many") for _ in range(3)]
    full = table(few + many)
    full.add(connect(network="new"))
    assert [each.closing for each in few + many] == [False, False, True, False, False]


def test_a_victim_that_became_active_is_spared(connect: Connect) -> None:
    held = [connect(Phase.IDLE) for _ in range(3)]
    full = table(held)
    full.add(connect())  # ranks the victims
    held[1].start_request(object())
    full.add(connect())
    assert [each.closing for each in held] == [True, False, True]


@pytest.mark.parametrize(
    ("phase", "seconds"),
    [(Phase.BODY, STALLED_SECONDS), (Phase.SENDING, STALLED_SEND_SECONDS)],
)
def test_a_connection_with_progress_is_not_silent(
    connect: Connect, phase: Phase, seconds: float
) -> None:
    connection = connect(phase)
    now = connection.since + seconds
    assert is_silent(connection, now)
    assert not is_silent(connection, now - 0.01)


def test_a_network_over_its_share_closes_its_own(connect: Connect) -> None:
    other = [connect(Phase.HEAD, "other") for _ in range(2)]
    own = [connect(Phase.IDLE), connect(Phase.NEW), connect(Phase.ANSWERING)]
    full = table(other + own, per_network=3)
    for _ in range(2):
        full.add(connect())
    assert [each.closing for each in other + own] == [False, False, True, True, False]
    last = connect()
    full.add(last)
    assert last.reserved
    full.add(connect(network="third"))
    assert other[0].closing


def test_the_oldest_of_the_reserve_is_closed(connect: Connect) -> None:
    full = table([connect()])
    reserve = [connect(Phase.NEW) for _ in range(3)]
    for each in reserve:
        full.add(each)
    assert [each.reserved for each in reserve] == [True] * 3
    assert [each.closing for each in reserve] == [True, False, False]


def test_closed_and_removed_connections_make_room(connect: Connect) -> None:
    held = [connect() for _ in range(2)]
    full = table(held)
    full.remove(held[0])
    full.close(held[1], too_many_connections(), reason="room")
    full.remove(held[1])
    assert len(full) == 0
    again = [connect() for _ in range(3)]
    for each in again:
        full.add(each)
    assert [each.reserved for each in again] == [False, False, True]
    assert set(full) == set(again)


def test_a_closed_body_fails_with_an_answer(connect: Connect) -> None:
    connection = connect(Phase.BODY)
    connection.drop()
    assert isinstance(connection.failure, UnavailableError)
    assert connection.client.recv(1) == b""
    connection.client.send(b"503")  # the answer can still be sent


def test_a_closed_answer_is_not_sent(connect: Connect) -> None:
    connection = connect(Phase.SENDING)
    connection.drop()
    with pytest.raises(BrokenPipeError):
        connection.client.send(b"x")


@pytest.mark.parametrize("per_network", [None, 50])
def test_a_flood_of_connections_ranks_few_times(
    connect: Connect, monkeypatch: pytest.MonkeyPatch, per_network: int | None
) -> None:
    """Otherwise each connection of an attacker would cost a look at all others."""
    asked = 0

    def count(connection: Connection, now: float) -> bool:
        nonlocal asked
        asked += 1
        return is_silent(connection, now)

    monkeypatch.setattr("iot_api.server.connection_table.is_silent", count)
    monkeypatch.setattr("iot_api.server.connection_table._RANK_SECONDS", 3600)
    full = table([connect(Phase.NEW) for _ in range(50)], per_network=per_network)
    for _ in range(100):
        full.add(connect(Phase.NEW))
    assert asked == 50 + 100 + 50  # ranked twice, and each victim asked again


def test_a_flood_on_busy_connections_ranks_once(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("iot_api.server.connection_table._RANK_SECONDS", 3600)
    held = [connect() for _ in range(50)]
    full = table(held)
    for _ in range(3):
        full.add(connect(Phase.NEW))
        for each in held:
            each.phase = Phase.IDLE
    assert not any(each.closing for each in held)
