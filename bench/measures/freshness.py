"""Time from 201 until a reading can be read, at half of full load.

The measure first finds the full load that this load generator reaches, and then sends half of it. A
separate process sends single readings under other passwords. After each 201, the process repeats
`last/1` until a response contains the reading. The measured time ends with this response, so the
time includes one read.
"""

import json
import multiprocessing
import statistics
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from itertools import chain, cycle

from bench import readings
from bench.load import Connection, Lane, paced, send
from bench.results import Kind, Row
from bench.service import Service
from bench.spread import spread
from bench.stage import Stage, batches

PROBES = 2
PROBE_PAUSE_SECONDS = 0.01
ASK_PAUSE_SECONDS = 0.002
GIVE_UP_SECONDS = 10
SINGLE_LANES = 16
FULL_LOAD_TIMES = 4
"""How many times the batches of a round are sent to find the full load. If they were sent only
once, the load would be short, and faster than the service can sustain."""


def measure_freshness(stage: Stage) -> None:
    """Measure under a load of batches, and under a load of single readings."""
    scale = stage.scale
    for what, lanes, size, distinct, times in (
        ("batches of 1000", scale.lanes, scale.batch, scale.batches, FULL_LOAD_TIMES),
        ("one reading a request", SINGLE_LANES, 1, scale.fresh_singles, 1),
    ):
        vaults = stage.new_vaults(lanes)
        probes = stage.new_vaults(PROBES)
        stage.service.open_vaults([*vaults, *probes])
        prepared = [list(batches(stage.service.wire, vault, 0, distinct, size)) for vault in vaults]
        full = _full_load(stage.service, [lane * times for lane in prepared])
        waits = _at_half(stage, prepared, full, probes)
        _report(stage, what, full * size, waits)


def _full_load(service: Service, prepared: list[list[bytes]]) -> float:
    """Send the requests. Return requests/s, counted until the last request is stored."""
    began = time.perf_counter()
    sent = send(service.port, prepared, service.wire.status)
    service.settle()
    return sent.requests / (time.perf_counter() - began)


def _at_half(
    stage: Stage, prepared: list[list[bytes]], full: float, probes: list[str]
) -> list[float]:
    each, seconds = full / 2 / len(prepared), stage.scale.fresh_seconds
    lanes: list[Lane] = [paced(cycle(lane), each, seconds) for lane in prepared]
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        # A first call, so that the process imports its modules before the measure begins.
        pool.submit(readings.time_of, 0).result()
        probing = pool.submit(probe, stage.service.port, probes, seconds)
        send(stage.service.port, lanes, stage.service.wire.status)
        waits = probing.result(timeout=seconds + 60)
    stage.service.settle()
    return waits


def probe(port: int, vaults: list[str], seconds: float) -> list[float]:
    """Send readings one after the other under each password.

    Return the seconds from the 201 of each reading to the response that contains it.
    """
    with ThreadPoolExecutor(len(vaults)) as pool:
        lists = pool.map(lambda vault: _probe_one(port, vault, seconds), vaults)
        return list(chain.from_iterable(lists))


def _probe_one(port: int, vault: str, seconds: float) -> list[float]:
    wire, waits = Service.wire, []
    body = json.dumps({"data": {"db_password": vault}}).encode()
    read = (
        b"POST /api/iot/last/1 HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
    )
    end, number = time.monotonic() + seconds, 0
    with Connection(port) as connection:
        while time.monotonic() < end:
            number += 1
            expected = b'"interrogator_timestamp":%d' % readings.time_of(number)
            connection.request(wire.request(wire.single(number, vault).encode()), wire.status)
            began = time.perf_counter()
            while expected not in connection.request(read, 200):
                if time.perf_counter() - began > GIVE_UP_SECONDS:
                    raise RuntimeError(
                        f"no read returned reading {number} within {GIVE_UP_SECONDS} s of its 201"
                    )
                time.sleep(ASK_PAUSE_SECONDS)
            waits.append(time.perf_counter() - began)
            time.sleep(PROBE_PAUSE_SECONDS)
    return waits


def _report(stage: Stage, what: str, full: float, waits: list[float]) -> None:
    waits = [1000 * wait for wait in waits]
    percentiles = statistics.quantiles(waits, n=100, method="inclusive")
    p99 = spread([percentiles[98]])
    row = Row(f"from 201 to readable, p99, at half of full load; {what}", "ms", p99)
    row.below(Kind.FLOOR, 80, "ms").below(Kind.AIM, 50, "ms")
    stage.results.rows.append(row)
    section = f"from 201 to readable; {what}"
    stage.results.detail(section, "full load of this generator", f"{full:,.0f} readings/s")
    stage.results.detail(section, "p50", f"{percentiles[49]:.1f} ms")
    stage.results.detail(section, "p99", f"{percentiles[98]:.1f} ms")
    stage.results.detail(section, "slowest of", f"{len(waits)}: {max(waits):.1f} ms")
