"""What things cost a service whose history has some size: CPU by part, pages, memory."""

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
from iot_cipher.vault import OpenVault
from iot_models.settings import load
from iot_stores.history import ReadFilter

from .growth_history import Size, Window, fill, pages
from .load import Connection, send
from .processes import CpuWatch
from .readings import vault_name
from .service import Service, running_service

VAULT = "growth"
LANES = 4
LAST = 100
SECONDS = 3600
"""More than the hot window holds, so that Postgres is asked."""

Cost = dict[str, float]


@dataclass(slots=True)
class Grown:
    """A running service with a history."""

    size: Size
    service: Service
    parts: Parts
    """The same code in this process, on the same stores."""
    vault: OpenVault
    window: Window
    ingest: list[Cost] = field(default_factory=list)
    """CPU seconds a million readings by part, of each round."""
    reads: dict[str, list[float]] = field(default_factory=dict)
    """CPU milliseconds a request, of each round."""
    hit: dict[str, float] = field(default_factory=dict)
    """Pages a question found in memory."""
    read: dict[str, float] = field(default_factory=dict)
    """Pages a question had to read."""
    redis_bytes: int = 0
    redis_keys: int = 0
    _number: int = 0

    def feed(self, batches: int, batch: int = 1000) -> None:
        """Ingest, and note what it cost."""
        service, lanes = self.service, []
        for lane in range(LANES):
            begin = self._number * batches * batch
            vault = vault_name(lane)
            lanes.append([
                service.wire.request(service.wire.batch(begin + number * batch, batch, vault))
                for number in range(batches)
            ])  # fmt: skip
        self._number += 1
        watch = CpuWatch(service.pids)
        send(service.port, lanes, service.wire.status)
        service.settle()
        million = LANES * batches * batch / 1e6
        self.ingest.append({part: used / million for part, used in watch.used().items()})

    def warm(self) -> None:
        """Open the vaults in every process, and look at everything once."""
        self.service.open_vaults([VAULT, *map(vault_name, range(LANES))])
        self.feed(10)
        self.ingest.clear()
        for request in self.requests().values():
            self._ask(request, 20)

    def requests(self) -> dict[str, bytes]:
        """What is asked, each as a request."""
        window = self.window
        return {
            f"last {LAST}": _request("POST", f"/last/{LAST}"),
            "a window in the middle": _request("POST", f"/{window.low}/{window.high}"),
            f"the last {SECONDS} s": _request("POST", f"/seconds/{SECONDS}"),
            "a vault's maxtime": _request("POST", "/maxtime"),
            "maxtime of all": _request("GET", "/maxtime"),
        }

    def questions(self) -> dict[str, Callable[[], int]]:
        """The same within this process; each tells how many readings there were."""
        readings, vault, window = self.parts.readings, self.vault, self.window
        question = ReadFilter(window.low, window.high)
        names = list(self.requests())
        asked: Sequence[Callable[[], int]] = (
            lambda: _count(readings.latest(vault, LAST)),
            lambda: _count(readings.select(vault, question)),
            lambda: _count(readings.last_seconds(vault, SECONDS)),
            lambda: int(readings.max_relative_timestamp(vault) is not None),
            lambda: int(readings.max_relative_timestamp() is not None),
        )
        return dict(zip(names, asked, strict=True))

    def ask(self, times: int) -> None:
        """Ask everything, and note what it cost."""
        for name, request in self.requests().items():
            watch = CpuWatch(self.service.pids)
            self._ask(request, times)
            used = sum(watch.used().values())
            self.reads.setdefault(name, []).append(used / times * 1000)

    def _ask(self, request: bytes, times: int) -> None:
        # A connection each: which process takes one is chance, and all have to do with it.
        for _ in range(4):
            with Connection(self.service.port) as connection:
                for _ in range(times // 4):
                    connection.ask(request, 200)

    def count_pages(self) -> None:
        """Note which pages of Postgres each question looks at."""
        for name, question in self.questions().items():
            question()  # after which the connection knows the tables
            before = self._pages()
            found = question()
            after = self._pages()
            if not found:
                raise RuntimeError(f"{name}: nothing was found")
            self.hit[name], self.read[name] = (
                float(now - then) for now, then in zip(after, before, strict=True)
            )

    def _pages(self) -> tuple[int, int]:
        with self.parts.pool.connection() as connection:
            connection.execute("SELECT pg_stat_force_next_flush()")
            connection.execute("SELECT 1")
            return pages(connection)

    def weigh(self) -> None:
        """Note what Redis holds."""
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
    """Start a service, give it a history, and warm it; all of it ends with the stack."""
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
