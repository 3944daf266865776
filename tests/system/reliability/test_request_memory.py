"""The memory of concurrent large bodies is bounded, and small requests are served."""

import gzip
import json
import socket
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
import zstandard

from support.answers import answer_of
from support.stack import Stack
from support.waiting import wait_until

MIB = 2**20
MAX_MIB = 150
"""Limit on the memory of bodies. Earlier, 16 bodies took 290 MiB and 50 bodies 810 MiB."""
CLIENTS = 30
PATIENCE = 60
PACK: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "zstd": zstandard.compress}

Start = Callable[..., Stack]


@pytest.fixture
def start(environment: dict[str, str], tmp_path: Path, resources: ExitStack) -> Start:
    """A function that starts one API process with the given settings."""

    def make(**settings: str) -> Stack:
        changes = {"IOT_API_WORKERS": "1", **settings}
        stack = Stack({**environment, **changes}, tmp_path, forked=False)
        resources.callback(stack.stop)
        stack.start_api()
        return stack

    return make


def rows(size: int) -> bytes:
    """Return a body of about this size."""
    row = {"data": {"db_password": "p", "freeform": "x" * 900}}
    return json.dumps([row] * (size // len(json.dumps(row) + ", "))).encode()


def begin(stack: Stack, resources: ExitStack, body: bytes) -> socket.socket:
    """Return a client that has sent the head of a PUT."""
    address = ("127.0.0.1", stack.port)
    client = resources.enter_context(socket.create_connection(address, timeout=PATIENCE))
    client.sendall(b"PUT /api/iot HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body))
    return client


def memory(pid: int, what: str) -> float:
    """Return `VmRSS`, or its maximum `VmHWM`, in MiB."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{what}:"))


def test_memory_of_concurrent_large_bodies_is_bounded(start: Start, resources: ExitStack) -> None:
    """All bodies arrive except for their last byte, so that the process holds all of them."""
    api = start()
    assert api.api is not None
    (worker,) = api.workers()
    assert api.request("PUT", "/api/iot", rows(2000)).status == 201
    before = memory(worker, "VmRSS")
    body = rows(15 * MIB)
    together = threading.Barrier(CLIENTS)
    statuses: Counter[int] = Counter()

    def put() -> None:
        client = begin(api, resources, body)
        try:
            client.sendall(body[:-1])
            together.wait(PATIENCE)
            client.sendall(body[-1:])
            status = answer_of(client)[0]
        except ConnectionError:  # refused during the upload
            together.abort()
            status = 503
        except threading.BrokenBarrierError:
            client.sendall(body[-1:])
            status = answer_of(client)[0]
        statuses[status] += 1

    clients = [threading.Thread(target=put) for _ in range(CLIENTS)]
    for each in clients:
        each.start()
    for each in clients:
        each.join()
    grown = memory(worker, "VmHWM") - before
    print(f"{CLIENTS} bodies of 15 MiB added {grown:.0f} MiB: {dict(statuses)}")
    assert grown < MAX_MIB
    # 503 while a body arrives, 429 when it is complete: too many large bodies wait.
    assert {201} < set(statuses) <= {201, 429, 503}
    wait_until(
        lambda: api.request("PUT", "/api/iot", body).status == 201, what="room for a large body"
    )


def test_slow_bodies_give_memory_to_quick_bodies(start: Start, resources: ExitStack) -> None:
    """The slow bodies use all memory and stop before their end. Their deadline is a minute away."""
    api = start(IOT_MAX_BODY_BYTES=str(MIB), IOT_API_REQUEST_MEMORY_BYTES=str(4 * MIB))
    body = rows(MIB)
    slow = [begin(api, resources, body) for _ in range(4)]
    done = threading.Event()
    resources.callback(done.set)
    for client in slow:
        client.sendall(body[: 900 * 1024])
        resources.callback(in_thread(trickle, client, done).join)
    batch = rows(100 * 1024)
    for _ in range(20):
        wait_until(
            lambda: api.request("PUT", "/api/iot", batch).status == 201,
            seconds=30,  # half of the time until the deadline of the slow bodies
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
def test_decompressed_sizes_count(start: Start, resources: ExitStack, encoding: str) -> None:
    """Bodies that are small until decompressed are refused while no memory is free."""
    api = start(IOT_MAX_BODY_BYTES=str(MIB), IOT_API_REQUEST_MEMORY_BYTES=str(4 * MIB))
    body = rows(MIB)
    held = [begin(api, resources, body) for _ in range(2)]
    for client in held:
        client.sendall(body[:-1])
    headers = {"Content-Encoding": encoding}
    packed = PACK[encoding](body)
    assert len(packed) < 16 * 1024
    seen = wait_until(
        lambda: api.request("PUT", "/api/iot", packed, headers).status == 503, what="a refusal"
    )
    assert seen
    for client in held:
        client.sendall(body[-1:])
        assert answer_of(client)[0] in {201, 503}
    wait_until(
        lambda: api.request("PUT", "/api/iot", packed, headers).status == 201,
        what="an acknowledgement",
    )
