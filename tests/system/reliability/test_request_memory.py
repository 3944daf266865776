"""Many large bodies at once: what they take of a process's memory, and who has to wait."""

import gzip
import http.client
import json
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import zstandard

from support.stack import Stack
from support.waiting import wait_until
from system.reliability.processes import api_workers

MIB = 2**20
MOST_MIB = 150
"""What bodies may add to a process. Once, 16 bodies added 290 MiB, and 50 added 810 MiB."""
CLIENTS = 30
PATIENCE = 60
PACK: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "zstd": zstandard.compress}

Start = Callable[..., Stack]


@pytest.fixture
def opened() -> Iterator[ExitStack]:
    """What is closed after the test."""
    with ExitStack() as made:
        yield made


@pytest.fixture
def start(environment: dict[str, str], tmp_path: Path, opened: ExitStack) -> Start:
    """Start one API process with these settings."""

    def make(**settings: str) -> Stack:
        stack = Stack({**environment, "IOT_API_WORKERS": "1", **settings}, tmp_path)
        opened.callback(stack.stop)
        stack.start_api()
        return stack

    return make


def rows(size: int) -> bytes:
    """A body of about this size."""
    row = {"data": {"db_password": "p", "freeform": "x" * 900}}
    return json.dumps([row] * (size // len(json.dumps(row) + ", "))).encode()


def begin(stack: Stack, opened: ExitStack, body: bytes) -> socket.socket:
    """A client that has sent the head of a PUT."""
    address = ("127.0.0.1", stack.port)
    client = opened.enter_context(socket.create_connection(address, timeout=PATIENCE))
    client.sendall(b"PUT /api/iot HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body))
    return client


def status_of(client: socket.socket) -> int:
    answer = http.client.HTTPResponse(client)
    answer.begin()
    answer.read()
    return answer.status


def memory(pid: int, what: str) -> float:
    """`VmRSS` or its highest value, `VmHWM`, in MiB."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{what}:"))


def test_large_bodies_at_once_are_bounded(start: Start, opened: ExitStack) -> None:
    """All arrive but for their last byte, so that all have to be held."""
    api = start()
    assert api.api is not None
    (worker,) = api_workers(api.api.pid)
    assert api.request("PUT", "/api/iot", rows(2000)).status == 201
    before = memory(worker, "VmRSS")
    body = rows(15 * MIB)
    together = threading.Barrier(CLIENTS)
    statuses: Counter[int] = Counter()

    def put() -> None:
        client = begin(api, opened, body)
        try:
            client.sendall(body[:-1])
            together.wait(PATIENCE)
            client.sendall(body[-1:])
            status = status_of(client)
        except ConnectionError:  # refused while it sent
            together.abort()
            status = 503
        except threading.BrokenBarrierError:
            client.sendall(body[-1:])
            status = status_of(client)
        statuses[status] += 1

    clients = [threading.Thread(target=put) for _ in range(CLIENTS)]
    for each in clients:
        each.start()
    for each in clients:
        each.join()
    grown = memory(worker, "VmHWM") - before
    print(f"{CLIENTS} bodies of 15 MiB added {grown:.0f} MiB: {dict(statuses)}")
    assert grown < MOST_MIB
    assert set(statuses) == {201, 503}
    wait_until(
        lambda: api.request("PUT", "/api/iot", body).status == 201, what="room for a large body"
    )


def test_slow_bodies_keep_no_memory_from_quick_ones(start: Start, opened: ExitStack) -> None:
    """They stop before their end, having used all memory up; their deadline is a minute away."""
    api = start(IOT_MAX_BODY_BYTES=str(MIB), IOT_API_REQUEST_MEMORY_BYTES=str(4 * MIB))
    body = rows(MIB)
    slow = [begin(api, opened, body) for _ in range(4)]
    done = threading.Event()
    opened.callback(done.set)
    for client in slow:
        client.sendall(body[: 900 * 1024])
        opened.callback(in_thread(trickle, client, done).join)
    batch = rows(100 * 1024)
    for _ in range(20):
        wait_until(
            lambda: api.request("PUT", "/api/iot", batch).status == 201,
            seconds=8,
            what="a quick body",
        )
    done.set()


def in_thread(target: Callable[..., None], *arguments: object) -> threading.Thread:
    thread = threading.Thread(target=target, args=arguments)
    thread.start()
    return thread


def trickle(client: socket.socket, done: threading.Event) -> None:
    """Send fast enough for the minimum rate of bodies, until refused."""
    try:
        while not done.wait(0.1):
            client.sendall(b" " * 200)
    except ConnectionError:
        return


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_unpacked_bodies_count(start: Start, opened: ExitStack, encoding: str) -> None:
    """Small on the wire, large behind it: what is unpacked is refused while there is no room."""
    api = start(IOT_MAX_BODY_BYTES=str(MIB), IOT_API_REQUEST_MEMORY_BYTES=str(4 * MIB))
    body = rows(MIB)
    held = [begin(api, opened, body) for _ in range(2)]
    for client in held:
        client.sendall(body[:-1])
    headers = {"Content-Encoding": encoding}
    packed = PACK[encoding](body)
    assert len(packed) < 16 * 1024
    seen = wait_until(
        lambda: api.request("PUT", "/api/iot", packed, headers).status == 503, what="no room"
    )
    assert seen
    for client in held:
        client.sendall(body[-1:])
        assert status_of(client) in {201, 503}
    wait_until(
        lambda: api.request("PUT", "/api/iot", packed, headers).status == 201, what="room again"
    )
