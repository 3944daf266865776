"""The memory of all reads of a process is bounded, for any readings and any speed."""

import base64
import json
import random
import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from integration.compaction.past import Past, each_second, noon
from integration.writer.sending import sending
from iot_models.settings import Settings
from iot_writer.writer import Writer
from support.stack import MakeStack, Stack

MIB = 2**20
FAST = 8
"""Number of readers at full speed, and of readers that read nothing."""
MAX_BYTES = 140 * MIB
"""Runs took 109 to 120 MiB: 83 for the texts of the vault "together" and the compressed segment,
15 for the segments that two other readers have fetched, and about 16 of freed memory that glibc
keeps. If each of the twelve readers of giant readings held one of them, they would take at least
240 MiB."""
SMALL = 100_000
LARGE, LARGE_BYTES = 3, 20 * MIB


def large_text(seed: int) -> str:
    """Return a text of which half is incompressible and half is escaped twice."""
    noise = base64.b64encode(random.Random(seed).randbytes(LARGE_BYTES * 3 // 8)).decode()
    return json.dumps(noise + '"' * (LARGE_BYTES // 4))


@pytest.fixture
def vaults(settings: Settings, writer: Writer) -> None:
    """Vaults of a few giant readings, and a vault of many small readings."""
    with sending(settings) as sender:
        past = Past(sender, writer)
        past.store(b"small", each_second(noon(3), SMALL), each=1000)
        for number in range(LARGE):
            past.store(b"large", [(noon(2), number, number, large_text(number))])
            # The readings have one time, so all segments overlap.
            past.store(b"overlapping", [(noon(2), 0, number, large_text(number))])
        # One segment has many readings.
        texts = [large_text(number) for number in range(LARGE)]
        past.store(b"together", [(noon(2), n, n, text) for n, text in enumerate(texts)], each=9)


@pytest.mark.usefixtures("vaults")
def test_memory_of_sixteen_concurrent_readers_is_bounded(make_stack: MakeStack) -> None:
    for path in ("", "/last/9"):
        stack = make_stack({"IOT_API_WORKERS": "1"}, forked=False)
        check_memory_of_readers(stack, path)
        stack.stop()


def check_memory_of_readers(stack: Stack, path: str) -> None:
    """Read with readers of full speed beside readers that read nothing."""
    vaults = ["small", "large", "overlapping", "together"] * (FAST // 4)
    assert len(stack.read("small", "/last/10")) == 10
    (pid,) = stack.workers()
    before = memory(pid, "VmRSS")
    Path(f"/proc/{pid}/clear_refs").write_text("5", encoding="ascii")  # resets VmHWM
    with ExitStack() as opened, ThreadPoolExecutor(FAST) as pool:
        for vault in vaults:
            opened.enter_context(stalled(stack, vault, path))
        sizes = list(pool.map(lambda vault: size_of(stack, vault, path), vaults))
    assert sizes[:4] == sizes[4:]
    assert min(sizes[1:4]) > LARGE * LARGE_BYTES
    risen = memory(pid, "VmHWM") - before
    assert risen < MAX_BYTES, f"{risen / MIB:.0f} MiB over {before / MIB:.0f}"


def memory(pid: int, name: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(name)


def ask(stack: Stack, password: str, path: str) -> socket.socket:
    body = json.dumps({"data": {"db_password": password}}).encode()
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**16)
    client.connect(("127.0.0.1", stack.port))
    client.sendall(
        b"POST /api/iot%b HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        b"Connection: close\r\nContent-Length: %d\r\n\r\n%b" % (path.encode(), len(body), body)
    )
    return client


def stalled(stack: Stack, password: str, path: str) -> socket.socket:
    """Return a connection with a started response that is not read."""
    client = ask(stack, password, path)
    client.settimeout(60)
    assert client.recv(12) == b"HTTP/1.1 200"
    return client


def size_of(stack: Stack, password: str, path: str) -> int:
    """Read a whole response at full speed, and return its size in bytes."""
    with ask(stack, password, path) as client:
        client.settimeout(60)
        assert client.recv(12) == b"HTTP/1.1 200"
        size, last = 0, b""
        while piece := client.recv(2**16):
            size, last = size + len(piece), (last + piece)[-9:]
        assert last.endswith(b"0\r\n\r\n") or path == "/last/9"
        return size
