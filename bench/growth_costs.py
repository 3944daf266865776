"""The costs of a service with a history of a given size: CPU by process, pages, memory."""

import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import chain
from typing import cast

import psycopg
from redis import Redis

from iot_api.limits.clients import Client
from iot_api.service import Service as Parts
from iot_api.service import build_service
from iot_cipher.encryption import OpenVault
from iot_models.settings import load
from iot_stores.history import ReadFilter

from .growth_history import Size, Window, fill, pages
from .load import Connection, send
from .processes import CpuWatch
from .readings import vault_name
from .service import Service, running_service

VAULT = "growth"
LANES = 4
BATCH = 1000
LAST = 100
SECONDS = 3600
"""The n of the measured read `seconds/<n>`. It is longer than the hot window, so that this read
goes to Postgres."""

Cost = dict[str, float]


@dataclass(slots=True)
class Grown:
    """A running service with a history."""

    size: Size
    service: Service
    parts: Parts
    """The parts of an API, built in this process, on the stores of `service`."""
    vault: OpenVault
    window: Window
    ingest: list[Cost] = field(default_factory=list)
    """CPU seconds per million readings by process, for each round."""
    reads: dict[str, list[float]] = field(default_factory=dict)
    """CPU milliseconds per request by kind of read, for each round."""
    hit: dict[str, float] = field(default_factory=dict)
    """Pages that a read found in memory, by kind of read."""
    read: dict[str, float] = field(default_factory=dict)
    """Pages that a read fetched from disk, by kind of read."""
    redis_bytes: int = 0
    redis_keys: int = 0
    _number: int = 0

    def measure_ingest(self, batches: int) -> None:
        """Send readings and record the CPU that ingest took."""
        service, lanes = self.service, []
        for lane in range(LANES):
            begin = self._number * batches * BATCH
            vault = vault_name(lane)
            lanes.append([
                service.wire.request(service.wire.batch(begin + number * BATCH, BATCH, vault))
                for number in range(batches)
            ])  # fmt: skip
        self._number += 1
        watch = CpuWatch(service.pids)
        send(service.port, lanes, service.wire.status)
        service.settle()
        million = LANES * batches * BATCH / 1e6
        self.ingest.append({part: used / million for part, used in watch.used().items()})

    def warm(self) -> None:
        """Open the vaults in every API process, store some readings, send each read 20 times."""
        self.service.open_vaults([VAULT, *map(vault_name, range(LANES))])
        self.measure_ingest(10)
        self.ingest.clear()
        for request in self.requests().values():
            self._read(request, 20)

    def requests(self) -> dict[str, bytes]:
        """Return a request for each kind of read."""
        window = self.window
        return {
            f"last {LAST}": _request("POST", f"/last/{LAST}"),
            "a window in the middle": _request("POST", f"/{window.low}/{window.high}"),
            f"the last {SECONDS} s": _request("POST", f"/seconds/{SECONDS}"),
            "a vault's maxtime": _request("POST", "/maxtime"),
            "maxtime of all": _request("GET", "/maxtime"),
        }

    def calls(self) -> dict[str, Callable[[], int]]:
        """Return a function for each kind of read.

        The function reads in this process, and returns the number of readings.
        """
        readings, vault, window = self.parts.readings, self.vault, self.window
        read_filter = ReadFilter(window.low, window.high)
        names = list(self.requests())
        calls: Sequence[Callable[[], int]] = (
            lambda: _count(readings.latest(vault, LAST)),
            lambda: _count(readings.select(vault, read_filter)),
            lambda: _count(readings.last_seconds(vault, SECONDS)),
            lambda: int(readings.max_relative_timestamp(vault) is not None),
            lambda: int(readings.max_relative_timestamp() is not None),
        )
        return dict(zip(names, calls, strict=True))

    def measure_reads(self, times: int) -> None:
        """Send requests of each kind of read and record the CPU they took."""
        for name, request in self.requests().items():
            watch = CpuWatch(self.service.pids)
            self._read(request, times)
            used = sum(watch.used().values())
            self.reads.setdefault(name, []).append(used / times * 1000)

    def _read(self, request: bytes, times: int) -> None:
        # Several connections: each goes to a random process of the API, and all should take part.
        for _ in range(4):
            with Connection(self.service.port) as connection:
                for _ in range(times // 4):
                    connection.request(request, 200)

    def count_pages(self) -> None:
        """Record how many pages of Postgres each kind of read touches."""
        for name, call in self.calls().items():
            call()  # warms up: the connection then knows the tables
            before = self._pages()
            found = call()
            after = self._pages()
            if not found:
                raise RuntimeError(f"{name}: the read returned no reading")
            self.hit[name], self.read[name] = (
                float(now - then) for now, then in zip(after, before, strict=True)
            )

    def _pages(self) -> tuple[int, int]:
        with self.parts.pool.connection() as connection:
            connection.execute("SELECT pg_stat_force_next_flush()")
            connection.execute("SELECT 1")
            return pages(connection)

    def measure_redis(self) -> None:
        """Record the memory and the number of keys of Redis."""
        with Redis.from_url(self.service.redis_url) as client:
            self.redis_bytes = int(cast("dict[str, int]", client.info("memory"))["used_memory"])
            self.redis_keys = cast("int", client.dbsize())


def _count(batches: object) -> int:
    return sum(1 for _ in chain.from_iterable(cast("list[list[object]]", batches)))


def _request(method: str, path: str) -> bytes:
    body = json.dumps({"data": {"db_password": VAULT}}).encode() if method == "POST" else b""
    head = (
        f"{method} /api/iot{path} HTTP/1.1\r\nHost: bench\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def grow(stack: ExitStack, size: Size, shards: int) -> Grown:
    """Start a service, store a history, and warm the service up. `stack` stops the service."""
    service = stack.enter_context(running_service(shards))
    parts = build_service(load({**service.environment, "IOT_API_POSTGRES_POOL": "2"}))
    stack.callback(parts.close)
    vault = parts.vaults.find_or_create(VAULT.encode(), Client("bench"))
    grown = Grown(size, service, parts, vault, fill(service.postgres_url, vault, size, shards))
    with psycopg.connect(service.postgres_url, autocommit=True) as connection:
        connection.execute("ALTER SYSTEM SET autovacuum = off")
        connection.execute("SELECT pg_reload_conf()")
    grown.warm()
    return grown
