"""Speed of reading a vault. Readings that arrive over HTTP are counted and not kept."""

import json
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial

from bench.load import send, shared
from bench.measures.batches import SIZES
from bench.peers.duckdb_file import filled_files
from bench.peers.influxdb import InfluxDB
from bench.peers.side import Side
from bench.peers.stand_in import RECORDED_READ, StandIn
from bench.processes import CpuWatch
from bench.response_counter import count_in_response
from bench.results import Kind, Row
from bench.spread import spread
from bench.stage import Stage, batches
from iot_tools.local.ports import free_port

READ = "read back"
CPU = "CPU seconds a million readings: read back, by process"
MARK = b'"interrogator_timestamp":'
"""Text that each reading of a response contains once."""

Read = Callable[[], int]
"""Reads a vault and returns the number of readings."""


def measure_read_back(stage: Stage) -> None:
    """Measure this service, the stand-in, InfluxDB and DuckDB in turn, in several rounds.

    All of them hold the same readings.
    """
    # The stand-in reads all rows of its file, whatever the password, so it gets a new file.
    stand_in = StandIn(stage.folder / "read_back", free_port())
    try:
        stand_in.start()
        _measure(stage, [stage.service, stand_in, stage.peer(InfluxDB)])
    finally:
        stand_in.stop()
    _report(stage)


def _measure(stage: Stage, sides: Sequence[Side | None]) -> None:
    (vault,) = stage.new_vaults(1)
    count = stage.scale.read
    reads = {side.name: _reader(stage, side, vault) for side in sides if side is not None}
    files = filled_files(stage.folder, vault, count)
    for file in files:
        reads[file.name] = partial(file.read, vault)
        stage.results.detail(SIZES, file.name, f"{file.disk_bytes() / count:.1f} (file)")
    speeds, cpu = defaultdict[str, list[float]](list), defaultdict[str, list[float]](list)
    for _ in range(stage.scale.rounds):
        for name, read in reads.items():
            watch, began = CpuWatch(stage.service.pids), time.perf_counter()
            received = read()
            seconds = time.perf_counter() - began
            if received < count:
                raise RuntimeError(f"{name} returned {received} of {count} readings")
            speeds[name].append(received / seconds)
            if name == stage.service.name:
                for part, used in watch.used().items():
                    cpu[part].append(used / received * 1e6)
    for file in files:
        file.close()
    stage.results.speeds[READ] = {name: spread(of) for name, of in speeds.items()}
    for part, values in cpu.items():
        stage.results.detail(CPU, part, spread(values), "s")


def fill(side: Side, vault: str, count: int, lanes: int, size: int = 1000) -> None:
    """Store `count` readings of one vault. The connections share one sequence of batches."""
    requests = batches(side.wire, vault, 0, count // size, size)
    send(side.port, shared(requests, lanes), side.wire.status)
    side.settle()


def read_all(port: int, vault: str) -> int:
    """Read a vault over HTTP, and return the number of readings.

    The server on `port` is this service, or the stand-in for the old server.
    """
    body = json.dumps({"data": {"db_password": vault}}).encode()
    return count_in_response(port, "POST", "/api/iot", body, MARK)


def _reader(stage: Stage, side: Side, vault: str) -> Read:
    fill(side, vault, stage.scale.read, stage.scale.lanes)
    if isinstance(side, InfluxDB):
        return _influx(side, vault)
    port = side.port
    return lambda: read_all(port, vault)


def _influx(side: InfluxDB, vault: str) -> Read:
    """Return a function that reads InfluxDB.

    The function reads all points. It returns a number that InfluxDB has counted before, because no
    word of a response appears once per point.
    """
    path = side.read_path(vault)

    def read() -> int:
        count_in_response(side.port, "GET", path, b"", b"\n")
        return counted

    counted = side.count(vault)
    return read


def _report(stage: Stage) -> None:
    speeds = stage.results.speeds[READ]
    row = Row(
        f"reading back {stage.scale.read:,} readings", "readings/s", speeds[stage.service.name]
    )
    recorded = f"the old server, recorded ({RECORDED_READ:,.0f})"
    row.at_least(Kind.FLOOR, 10, recorded, RECORDED_READ)
    row.at_least(Kind.FLOOR, 2.5, InfluxDB.name, speeds.get(InfluxDB.name))
    row.at_least(Kind.AIM, 3, InfluxDB.name, speeds.get(InfluxDB.name))
    stage.results.rows.append(row)
    for name, value in speeds.items():
        stage.results.detail(READ, name, value, "readings/s")
