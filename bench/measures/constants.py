"""Measure the constants of the capacity model.

Five loads contain different numbers of jobs, drains, entries, segments and readings. Their CPU
seconds give equations, whose solution is the cost of one job, one drain and so on. Sizes are
measured in Redis and Postgres. `make docs` copies the constants into
`tools/iot_tools/capacity/measured.py`.
"""

import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import psycopg
from redis import Redis

from bench.load import paced, send
from bench.processes import CpuWatch
from bench.readings import json_readings, vault_name
from bench.service import Service, running_service
from bench.simulator_check import scrape
from bench.stage import Stage
from iot_cipher.vault import password_key
from iot_models.settings import load_one
from iot_tools.local.ports import free_port

SECTION = "constants of the capacity model"
FEW, MANY = 4, 200
LANES = 4
OPENED = 4
"""Number of key derivations whose mean CPU time is the cost of opening a vault."""
THINGS = ("job", "drain", "entry", "segment", "reading")
MICRO = 1e6
KEY_SLOT_BYTES = 40
"""Bytes that a key takes in the tables in which Redis keeps all keys and all expiry times."""


@dataclass(frozen=True, slots=True)
class Spent:
    """The contents of a load, and the CPU seconds of each process."""

    things: dict[str, float]
    cpu: dict[str, float]


class Bench:
    """A service under different loads."""

    def __init__(self, service: Service, metrics_port: int, scale: float) -> None:
        self._service, self._port, self._scale = service, metrics_port, scale
        self._postgres = psycopg.connect(service.postgres_url, autocommit=True)
        self.redis = Redis.from_url(service.redis_url)
        self.few = [vault_name(number) for number in range(FEW)]
        self.many = [vault_name(number) for number in range(max(20, int(MANY * scale)))]

    def request(self, vault: str, batch: int, begin: int = 0) -> bytes:
        """Return a PUT of `batch` readings."""
        wire = self._service.wire
        return wire.request(wire.body(begin, batch, vault))

    def loads(self) -> list[Spent]:
        """Measure the service when it is idle, and then under five loads.

        The first load contains mostly jobs, the second one mostly drains, and so on (`THINGS`).
        """
        number = int(4000 * self._scale)
        singles, many = self._lanes(self.few, number), self._lanes(self.many, number)
        seconds = 20 * self._scale
        light = [paced(self._lanes(self.few, 400)[0], 20, seconds)]
        steady = [paced(lane, 50, seconds) for lane in self._lanes(self.few, 1000)]
        batches = [
            [self.request(vault, 1000, 1000 * number) for number in range(int(60 * self._scale))]
            for vault in self.few
        ]
        return [
            self._spend(lambda: time.sleep(seconds)),
            self._spend(lambda: self._send(light)),
            self._spend(lambda: self._send(steady)),
            self._spend(lambda: self._send(singles)),
            self._spend(lambda: self._send(many)),
            self._spend(lambda: self._send(batches)),
        ]

    def _lanes(self, vaults: Sequence[str], number: int) -> list[list[bytes]]:
        return [
            [self.request(vaults[(each + lane) % len(vaults)], 1, each) for each in range(number)]
            for lane in range(LANES)
        ]

    def _send(self, lanes: "Sequence[Sequence[bytes] | Iterator[bytes]]") -> None:
        send(self._service.port, lanes, self._service.wire.status)
        self._service.settle()

    def _spend(self, work: Callable[[], None]) -> Spent:
        before, watch = self._counts(), CpuWatch(self._service.pids)
        work()
        cpu, after = watch.used(), self._counts()
        return Spent({name: after[name] - before[name] for name in after}, cpu)

    def _counts(self) -> dict[str, float]:
        samples = scrape(self._port)
        (worker,) = self.redis.smembers("rq:workers")
        return {
            "job": float(self.redis.hget(worker, "successful_job_count") or 0),
            "drain": samples["iot_drain_seconds_count"],
            "entry": self._entries(),
            "segment": samples["iot_segments_stored_total"],
            "reading": samples["iot_readings_stored_total"],
            "second": time.monotonic(),
        }

    def _entries(self) -> float:
        row = self._postgres.execute("SELECT sum(high) FROM ingest_sessions").fetchone()
        return float(row[0] or 0) if row else 0.0

    def queued(self) -> tuple[float, float]:
        """Return two sizes in Redis, in bytes: an entry without readings, and a reading."""
        pid = self._service.pids["writer"]
        os.kill(pid, signal.SIGSTOP)
        try:
            number = int(2000 * self._scale)
            lanes = self._lanes(self.few, number)
            many = max(5, int(50 * self._scale))
            alone = self._added(lambda: send(self._service.port, lanes, 201)) / number / LANES
            batches = [[self.request(self.few[0], 1000, 1000 * each) for each in range(many)]]
            full = self._added(lambda: send(self._service.port, batches, 201)) / many
        finally:
            os.kill(pid, signal.SIGCONT)
        self._service.settle()
        reading = (full - alone) / 999
        return alone - reading, reading

    def _added(self, work: Callable[[], object]) -> float:
        before = self._used()
        work()
        return self._used() - before

    def _used(self) -> int:
        return int(cast("dict[str, int]", self.redis.info("memory"))["used_memory"])

    def stored(self) -> tuple[float, float, float]:
        """Return the size of a segment without its readings, the size of a reading, and a factor.

        The sizes are bytes in Postgres. The factor is the number of WAL bytes for each stored byte.
        Small and large segments give two equations, whose solution is the two sizes.
        """
        sizes, written = [], self._wal()
        lanes = self._lanes(self.many, int(4000 * self._scale))
        number = max(10, int(100 * self._scale))
        batches = [[self.request(self.few[0], 1000, 1000 * each) for each in range(number)]]
        for each in (lanes, batches):
            before, counts = self._service.history_bytes(), self._counts()
            self._send(each)
            after = self._counts()
            segments, readings = (after[key] - counts[key] for key in ("segment", "reading"))
            sizes.append((self._service.history_bytes() - before, segments, readings))
        (small, segments, some), (large, few, many) = sizes
        reading = (large - small * few / segments) / (many - some * few / segments)
        wal = (self._wal() - written) / (small + large)
        return (small - some * reading) / segments, reading, wal

    def _wal(self) -> float:
        row = self._postgres.execute("SELECT pg_current_wal_lsn() - '0/0'::pg_lsn").fetchone()
        return float(row[0]) if row else 0.0

    def keys(self) -> tuple[float, float]:
        """Return the bytes in Redis of a hot segment without its payload, and of a vault record."""
        segments, indexes, records = (
            list(self.redis.scan_iter(f"{prefix}*", count=1000))
            for prefix in ("iot:hot:segment:", "iot:hot:index:", "iot:vault:")
        )
        payloads = sum(self.redis.strlen(key) for key in segments)
        total = self._weight([*segments, *indexes])
        return (total - payloads) / len(segments), self._weight(records) / len(records)

    def _weight(self, keys: Sequence[bytes]) -> float:
        """Return the bytes of keys, with their slots in Redis's tables."""
        weights = [self.redis.memory_usage(key, samples=0) for key in keys]
        return sum(weight or 0 for weight in weights) + KEY_SLOT_BYTES * len(keys)

    def close(self) -> None:
        """Close the connections to the stores."""
        self._postgres.close()
        self.redis.close()


def opening() -> float:
    """Return the CPU microseconds that it takes to derive the key of a password."""
    began = time.process_time()
    for _ in range(OPENED):
        password_key(b"password", bytes(16), load_one("scrypt_log2_n", {}))
    return (time.process_time() - began) / OPENED * MICRO


def solve(spent: Sequence[Spent], part: str, things: Sequence[str]) -> dict[str, float]:
    """Return the CPU microseconds that each of `things` costs a process, by name of the thing.

    `spent[0]` was measured on an idle service, the others under loads.

    Gauss-Seidel iteration: each cost comes from the load that contains most of the thing. No cost
    is negative.
    """
    idle = spent[0].cpu[part] / spent[0].things["second"]
    costs = dict.fromkeys(things, 0.0)
    loads = {thing: load for thing, load in zip(THINGS, spent[1:], strict=True) if thing in costs}
    for _ in range(200):
        for thing, load in loads.items():
            others = sum(costs[each] * load.things[each] for each in things if each != thing)
            left = load.cpu[part] - idle * load.things["second"] - others
            costs[thing] = max(0.0, left) / max(1.0, load.things[thing])
    return {thing: cost * MICRO for thing, cost in costs.items()}


PARTS = {
    "API": ("api", ("entry", "reading")),
    "Redis": ("redis", THINGS),
    "writer": ("writer", THINGS),
    "Postgres": ("postgres", THINGS),
}
"""By process: the prefix of its constants, and the things it works on."""


def measure_constants(stage: Stage) -> None:
    """Measure all constants with a service of its own, whose writer serves metrics."""
    port = free_port()
    settings = {"IOT_WRITER_METRICS_PORT": str(port), "IOT_METRICS_ADDRESS": "127.0.0.1"}
    with running_service(settings=settings) as service:
        bench = Bench(service, port, stage.scale.constants)
        service.open_vaults(bench.many)
        for name, value in _constants(bench):
            stage.results.detail(SECTION, name, f"{float(f'{value:.3g}'):g}")
        bench.close()


def _constants(bench: Bench) -> Iterator[tuple[str, float]]:
    """Yield the name, as in `Costs`, and the value of each measured constant."""
    spent = bench.loads()
    for name, (part, things) in PARTS.items():
        for thing, cost in solve(spent, name, things).items():
            if thing != "job" or part != "postgres":  # a job needs nothing from Postgres
                yield f"{part}_{thing}", cost
    yield "api_open", opening()
    yield "json_reading", len(json_readings(0, 1000, vault_name(0))) / 1000
    for names, values in (
        (("queued_entry", "queued_reading"), bench.queued()),
        (("stored_segment", "stored_reading", "wal_factor"), bench.stored()),
        (("hot_segment", "vault_record"), bench.keys()),
    ):
        yield from zip(names, values, strict=True)
