"""Run all attacks at once: `python -m system.reliability.siege PORT SECONDS`.

The attackers run in a separate process, so that they do not slow down the devices of a test. The
process prints the results.
"""

import gzip
import itertools
import json
import os
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import zstandard

from iot_sensor_client import Client, NoResponseError
from system.reliability.wire_fuzzing import wires

MUTATED = 10_000
"""Total number of invalid requests."""
SLOW_PEERS = 60
MIB = 2**20
JSON = {"Content-Type": "application/json"}
READ = json.dumps({"data": {"db_password": "device"}}).encode()


def large_bodies() -> list[tuple[bytes, dict[str, str]]]:
    """Return small compressed bodies that unpack to the maximum size, or to nothing many times."""
    begin, end = b'{"data":{"db_password":"large","freeform":"', b'"}}'
    bodies = []
    for text in (b"\x7f", "é".encode(), "日".encode(), b'\\"', b"x"):
        body = begin + text * ((15 * MIB) // len(text)) + end
        bodies.append((gzip.compress(body, 1), {**JSON, "Content-Encoding": "gzip"}))
    for encoding, member in (("gzip", gzip.compress(b"")), ("zstd", zstandard.compress(b""))):
        bodies.append((member * (4 * MIB // len(member)), {**JSON, "Content-Encoding": encoding}))
    return bodies


class Siege:
    """Attackers of one port until a deadline."""

    def __init__(self, port: int, seconds: float) -> None:
        self._port = port
        self._seconds = seconds
        self._until = time.monotonic() + seconds
        self.got: Counter[str] = Counter()

    def run(self) -> None:
        """Run every attack concurrently."""
        attacks = [
            *[self._mutate] * 4, *[self._create_vaults] * 4, *[self._send_large] * 2,
            self._hold_slow_peers,
        ]  # fmt: skip
        with ThreadPoolExecutor(len(attacks)) as pool:
            running = [pool.submit(attack, number) for number, attack in enumerate(attacks)]
        for each in running:
            each.result()

    def _going(self) -> bool:
        return time.monotonic() < self._until

    def _mutate(self, number: int) -> None:
        count = MUTATED // 4
        for sent, wire in enumerate(itertools.islice(wires(number), count)):
            # The requests are spread over the whole time.
            due = self._until - self._seconds * (1 - sent / count)
            time.sleep(max(0.0, due - time.monotonic()))
            if not self._going():
                return
            with suppress(OSError), self._connect() as client:
                for part in wire.parts:
                    client.sendall(part)
                client.shutdown(socket.SHUT_WR)
                status = client.recv(4096).partition(b"\r\n")[0].split(b" ")[1:2]
                self.got[f"mutated {b''.join(status).decode('latin-1')}"] += 1

    def _create_vaults(self, number: int) -> None:
        for place in itertools.count():
            if not self._going():
                return
            words = [f"{os.getpid()} {number} {place} {each}" for each in range(50)]
            rows = [{"data": {"db_password": word}} for word in words]
            self._put("new passwords", json.dumps(rows).encode(), JSON)

    def _send_large(self, number: int) -> None:
        bodies = large_bodies()
        for body, headers in itertools.islice(itertools.cycle(bodies), number, None):
            if not self._going():
                return
            self._put("large", body, headers)

    def _put(self, what: str, body: bytes, headers: dict[str, str]) -> None:
        client = Client(f"http://127.0.0.1:{self._port}", timeout=5, keep_alive=False)
        with suppress(NoResponseError):
            response = client.request("PUT", "/api/iot", body, headers, repeatable=False)
            self.got[f"{what} {response.status}"] += 1

    def _hold_slow_peers(self, number: int) -> None:
        """Hold sixty clients that send or read almost nothing, and reopen closed connections."""
        del number
        peers: list[tuple[socket.socket, bytes]] = []
        beginnings = itertools.cycle(self._beginnings())
        while self._going():
            while len(peers) < SLOW_PEERS:
                opening, drip = next(beginnings)
                client = self._connect()
                with suppress(OSError):
                    client.sendall(opening)
                peers.append((client, drip))
            time.sleep(0.5)
            peers = [each for each in peers if self._drip(*each)]
        for client, _ in peers:
            client.close()

    def _drip(self, client: socket.socket, drip: bytes) -> bool:
        with suppress(OSError):
            client.sendall(drip)
            return True
        client.close()
        self.got["slow peers closed"] += 1
        return False

    @staticmethod
    def _beginnings() -> Iterator[tuple[bytes, bytes]]:
        """Yield the first bytes of each kind of client and its later bytes, sent twice a second."""
        put = b"PUT /api/iot HTTP/1.1\r\nHost: x\r\n"
        read = b"POST /api/iot HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b"
        yield b"", b""
        yield b"GET /healthz HTTP/1.1\r\n", b"X: y\r\n"
        yield put + b"Content-Length: 900000\r\n\r\n[", b" "
        yield put + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"
        yield read % (len(READ), READ), b""
        yield read % (len(READ), READ), read % (len(READ), READ)

    def _connect(self) -> socket.socket:
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(10)
        client.connect(("127.0.0.1", self._port))
        return client


def main(port: str, seconds: str) -> None:
    """Run the attacks, and print the results as JSON."""
    os.nice(5)  # the attackers must not take CPU time from the server
    threading.stack_size(2**20)
    siege = Siege(int(port), float(seconds))
    siege.run()
    print(json.dumps(siege.got, sort_keys=True))


if __name__ == "__main__":
    _run: Callable[[str, str], None] = main
    _run(*sys.argv[1:])
