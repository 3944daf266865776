"""Batches of 1000 readings: time until all are acknowledged and stored, CPU, bytes stored."""

import time
from collections import defaultdict

from bench.limits import wait_until
from bench.peers.influxdb import InfluxDB
from bench.peers.side import Side
from bench.peers.stand_in import (
    RECORDED_ACKNOWLEDGED,
    RECORDED_BYTES,
    RECORDED_STORED,
    StandIn,
    compared_with_recorded,
)
from bench.peers.victoria_metrics import VictoriaMetrics
from bench.processes import CpuWatch
from bench.results import Kind, Row
from bench.spread import Spread, spread
from bench.stage import Stage

ACKNOWLEDGED, STORED = "batches acknowledged", "batches stored"
SIZES = "bytes a reading on disk"
CPU = "CPU seconds a million readings: batches of 1000, by process"
STORE_SECONDS = 120

Prepared = dict[str, list[list[bytes]]]


def measure_batches(stage: Stage) -> None:
    """Measure all sides in turn, in several rounds."""
    sides = stage.sides
    model = stage.new_vaults(stage.scale.lanes)
    prepared = _prepare(stage, sides, model)
    acknowledged, stored = defaultdict[str, list[float]](list), defaultdict[str, list[float]](list)
    cpu = defaultdict[str, list[float]](list)
    for _ in range(stage.scale.rounds):
        vaults = stage.new_vaults(stage.scale.lanes)
        stage.service.open_vaults(vaults)
        for side in sides:
            lanes = _renamed(prepared[side.wire.content_type], model, vaults)
            watch = CpuWatch(stage.service.pids)
            first, last = _round(side, lanes, stage.scale.readings)
            acknowledged[side.name].append(stage.scale.readings / first)
            if not isinstance(side, VictoriaMetrics):
                stored[side.name].append(stage.scale.readings / last)
            if side is stage.service:
                for part, seconds in watch.used().items():
                    cpu[part].append(seconds / stage.scale.readings * 1e6)
            side.settle()
    for side in sides:
        _check(side, stage.scale.rounds * stage.scale.readings)
    stage.results.speeds[ACKNOWLEDGED] = {name: spread(of) for name, of in acknowledged.items()}
    stage.results.speeds[STORED] = {name: spread(of) for name, of in stored.items()}
    _report(stage, cpu)


def _prepare(stage: Stage, sides: list[Side], vaults: list[str]) -> Prepared:
    """Return the bodies for each content type. Sides with the same content type share bodies."""
    scale, prepared = stage.scale, Prepared()
    for side in sides:
        if side.wire.content_type not in prepared:
            prepared[side.wire.content_type] = [
                [side.wire.batch(n * scale.batch, scale.batch, vault) for n in range(scale.batches)]
                for vault in vaults
            ]
    return prepared


def _round(side: Side, lanes: list[list[bytes]], readings: int) -> tuple[float, float]:
    """Send the batches. Return the seconds until all are acknowledged, and until all are stored."""
    until = side.stored() + readings if side.stores_later else 0
    acknowledged = side.send_batches(lanes)
    if not side.stores_later:
        return acknowledged, acknowledged
    began = time.perf_counter()
    wait_until(lambda: side.stored() >= until, STORE_SECONDS, f"{side.name}: a round stored")
    return acknowledged, acknowledged + time.perf_counter() - began


def _renamed(lanes: list[list[bytes]], model: list[str], vaults: list[str]) -> list[list[bytes]]:
    pairs = zip(lanes, model, vaults, strict=True)
    return [[body.replace(old.encode(), new.encode()) for body in lane] for lane, old, new in pairs]


def _check(side: Side, readings: int) -> None:
    """Raise `RuntimeError` if a side lost readings: its figures can't be compared."""
    if side.stored() < readings:
        raise RuntimeError(f"{side.name} holds {side.stored()} of {readings} readings")


def _report(stage: Stage, cpu: dict[str, list[float]]) -> None:
    results = stage.results
    ours = results.speeds[STORED][stage.service.name]
    old, influx = results.speed(STORED, StandIn.name), results.speed(STORED, InfluxDB.name)
    row = Row("batches of 1000, sent to stored", "readings/s", ours)
    row.at_least(
        Kind.FLOOR, 5, f"the old server, recorded ({RECORDED_STORED:,.0f})", RECORDED_STORED
    )
    row.at_least(Kind.FLOOR, 2.5, InfluxDB.name, influx)
    row.at_least(Kind.AIM, 3, InfluxDB.name, influx)
    results.rows.append(row)
    for figure in (ACKNOWLEDGED, STORED):
        for name, value in results.speeds[figure].items():
            results.detail(figure, name, value, "readings/s")
    _judge_stand_in(stage, old)
    total = spread(map(sum, zip(*cpu.values(), strict=True)))
    for part, values in [*cpu.items(), ("all of them", total.values)]:
        results.detail(CPU, part, spread(values), "s")
    _bytes(stage)


def _judge_stand_in(stage: Stage, stored: Spread | None) -> None:
    taken = stage.results.speed(ACKNOWLEDGED, StandIn.name)
    if stored is None or taken is None:
        return
    stage.results.notes.append(
        f"The stand-in for the old server stores {stored.median:,.0f} readings/s here and "
        f"acknowledges {taken.median:,.0f}. The real server, measured on another day: "
        f"{RECORDED_STORED:,.0f} and {RECORDED_ACKNOWLEDGED:,.0f}. "
        f"{compared_with_recorded(stored.median / RECORDED_STORED)}"
    )


def _bytes(stage: Stage) -> None:
    """Measure the bytes that each side has stored per reading.

    The history must not hold much besides the batches yet.
    """
    ours = spread([stage.service.history_bytes() / stage.service.stored()])
    row = Row("bytes a reading in Postgres, indexes counted", "B", ours)
    stage.results.rows.append(row.below(Kind.AIM, 10, "B"))
    for peer in stage.peers.values():
        each = peer.disk_bytes() / max(1, peer.stored())
        stage.results.detail(SIZES, peer.name, f"{each:.1f} ({peer.disk_scope})")
    stage.results.detail(SIZES, "old server, recorded", spread([RECORDED_BYTES]))
