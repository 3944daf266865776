"""Requests/s with one reading per request, sent by wrk."""

from collections import defaultdict

from bench import wrk
from bench.peers.influxdb import InfluxDB
from bench.peers.postgres_rows import PostgresRows
from bench.peers.side import Side
from bench.peers.stand_in import RECORDED_SINGLE, StandIn, compared_with_recorded
from bench.processes import CpuWatch
from bench.results import Kind, Row
from bench.spread import spread
from bench.stage import Stage

SINGLES = "one reading a request"
CPU = "CPU seconds a million readings: one a request, by process"
BODIES = 4096
VAULTS = 8
WARM_SECONDS = 1


def measure_singles(stage: Stage) -> None:
    """Measure all sides that use HTTP in turn, in several rounds."""
    results = stage.results
    if not wrk.installed():
        results.rows.append(_row(stage))
        return
    vaults = stage.new_vaults(VAULTS)
    stage.service.open_vaults(vaults)
    speeds, waits = defaultdict[str, list[float]](list), defaultdict[str, list[float]](list)
    cpu = defaultdict[str, list[float]](list)
    sides = [side for side in stage.sides if not isinstance(side, PostgresRows)]
    for number in range(stage.scale.rounds):
        for side in sides:
            bodies = bodies_of(side, vaults)
            if not number and stage.scale.rounds > 1:  # a single round shows only that it works
                _run(stage, side, bodies, WARM_SECONDS)
            watch = CpuWatch(stage.service.pids)
            result = _run(stage, side, bodies, stage.scale.single_seconds)
            speeds[side.name].append(result.per_second)
            waits[side.name].append(result.p99_ms)
            if side is stage.service:  # including the drains of these readings
                for part, used in watch.used().items():
                    cpu[part].append(used / result.requests * 1e6)
    results.speeds[SINGLES] = {name: spread(of) for name, of in speeds.items()}
    results.rows += [_row(stage), *_costs(cpu)]
    for name, value in results.speeds[SINGLES].items():
        results.detail(
            SINGLES, name, f"{value.text()} requests/s, p99 {spread(waits[name]).text()} ms"
        )
    for part, values in cpu.items():
        results.detail(CPU, part, spread(values), "s")
    _judge_stand_in(stage)


def bodies_of(side: Side, vaults: list[str]) -> list[str]:
    """Return bodies with one reading each. The vaults take turns."""
    return [side.wire.single(n, vaults[n % len(vaults)]) for n in range(BODIES)]


def _run(stage: Stage, side: Side, bodies: list[str], seconds: int) -> wrk.Result:
    result = wrk.run(side.port, side.wire, bodies, seconds=seconds, folder=stage.folder)
    side.settle()
    return result


def _row(stage: Stage) -> Row:
    results = stage.results
    row = Row(SINGLES, "requests/s", results.speed(SINGLES, stage.service.name))
    recorded = f"the old server, recorded ({RECORDED_SINGLE:,.0f})"
    row.at_least(Kind.FLOOR, 2.5, recorded, RECORDED_SINGLE)
    influx = results.speed(SINGLES, InfluxDB.name)
    row.at_least(Kind.FLOOR, 0.7, InfluxDB.name, influx)
    return row.at_least(Kind.AIM, 1, InfluxDB.name, influx)


def _costs(cpu: dict[str, list[float]]) -> list[Row]:
    """Return a row for each process: the CPU of a request with one reading, drains included."""
    api, redis, writer = (
        Row(f"{part}: CPU of a request with one reading", "µs", spread(cpu[part]))
        for part in ("API", "Redis", "writer")
    )
    api.below(Kind.FLOOR, 150, "µs").below(Kind.AIM, 100, "µs")
    redis.below(Kind.FLOOR, 20, "µs").below(Kind.AIM, 15, "µs")
    return [api, redis, writer.below(Kind.AIM, 20, "µs")]


def _judge_stand_in(stage: Stage) -> None:
    found = stage.results.speed(SINGLES, StandIn.name)
    if found is not None:
        stage.results.notes.append(
            f"The stand-in answers {found.median:,.0f} single requests/s. The real old "
            f"server: {RECORDED_SINGLE:,.0f}. "
            f"{compared_with_recorded(found.median / RECORDED_SINGLE)}"
        )
