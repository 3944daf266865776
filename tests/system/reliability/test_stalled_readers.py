"""Clients that stop reading long responses delay no other client."""

import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack

import psycopg
import pytest

from integration.compaction.past import Past, each_second, noon
from integration.writer.sending import sending
from iot_models.settings import Settings
from iot_writer.writer import Writer
from support.stack import MakeStack, Stack
from support.waiting import wait_until

COUNT = 60_000
SOCKETS = 12
READ = json.dumps({"data": {"db_password": "long"}}).encode()
TOO_LONG_OPEN = """
    SELECT count(*) FROM pg_stat_activity
    WHERE application_name = 'iot-api' AND datname = current_database()
      AND now() - xact_start > interval '2 seconds'
"""


@pytest.fixture
def stack(make_stack: MakeStack, settings: Settings, writer: Writer) -> Stack:
    """One API process, and a vault with many readings."""
    with sending(settings) as sender:
        Past(sender, writer).store(b"long", each_second(noon(3), COUNT), each=1000)
    return make_stack({"IOT_API_WORKERS": "1", "IOT_GUESS_LIMIT": "0"})


@pytest.fixture
def stalled(stack: Stack) -> Iterator[list[socket.socket]]:
    """Connections that requested a long response and do not read it."""
    with ExitStack() as opened:
        clients = []
        for _ in range(SOCKETS):
            client = opened.enter_context(socket.socket())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(("127.0.0.1", stack.port))
            client.sendall(
                b"POST /api/iot HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                b"Connection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(READ), READ)
            )
            clients.append(client)
        yield clients


def test_other_clients_are_served_beside_stalled_readers(
    stack: Stack, stalled: list[socket.socket], postgres: psycopg.Connection
) -> None:
    wait_until(
        lambda: all(_arrived(client) for client in stalled), what="the start of all responses"
    )
    began = time.monotonic()
    while time.monotonic() - began < 3:
        assert len(stack.read("long", "/last/10")) == 10
        assert stack.put([{"data": {"db_password": f"new {time.monotonic()}"}}]).status == 201
        assert stack.request("GET", "/api/audit").status == 200
        assert stack.request("GET", "/api/iot/maxtime").status == 200
        row = postgres.execute(TOO_LONG_OPEN).fetchone()
        assert row == (0,)
    whole = stack.read("long")
    assert len(whole) == COUNT
    # A client that resumes reading gets the complete response.
    for client in stalled[:2]:
        assert _body(client) == whole


def _arrived(client: socket.socket) -> bool:
    client.setblocking(False)
    try:
        return bool(client.recv(1, socket.MSG_PEEK))
    except BlockingIOError:
        return False
    finally:
        client.setblocking(True)


def _body(client: socket.socket) -> object:
    """Return the rows of a chunked response."""
    client.settimeout(30)
    received = bytearray()
    while piece := client.recv(2**16):
        received += piece
    head, _, rest = bytes(received).partition(b"\r\n\r\n")
    assert b" 200 OK" in head
    body = b""
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        length = int(size, 16)
        body, rest = body + rest[:length], rest[length + 2 :]
    return json.loads(body)["data"]
