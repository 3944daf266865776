"""CPU seconds per million readings with 1 shard and with 8."""

from bench.load import send
from bench.processes import CpuWatch
from bench.results import Kind, Row
from bench.service import Service, running_service
from bench.spread import Spread, spread
from bench.stage import Stage, batches

FEW, MANY = 1, 8
VAULTS = 8


def measure_shards(stage: Stage) -> None:
    """Load two services in turn with the same readings. One is idle while the other works."""
    with running_service(FEW) as few, running_service(MANY) as many:
        found: dict[int, list[float]] = {FEW: [], MANY: []}
        for number in range(stage.scale.rounds + 1):
            vaults = stage.new_vaults(VAULTS)
            for shards, service in ((FEW, few), (MANY, many)):
                service.open_vaults(vaults)
                used = _cpu(stage, service, vaults)
                if number:  # the first round is a warm-up
                    found[shards].append(used)
    costs = {shards: spread(values) for shards, values in found.items()}
    _report(stage, costs)


def _cpu(stage: Stage, service: Service, vaults: list[str]) -> float:
    scale = stage.scale
    # At least 32 batches: Linux counts CPU time in steps of 10 ms.
    number = max(4, scale.lanes * scale.batches // VAULTS)
    lanes = [list(batches(service.wire, each, 0, number, scale.batch)) for each in vaults]
    watch = CpuWatch(service.pids)
    send(service.port, lanes, service.wire.status)
    service.settle()
    return sum(watch.used().values()) / (VAULTS * number * scale.batch) * 1e6


def _report(stage: Stage, costs: dict[int, Spread]) -> None:
    row = Row(f"CPU seconds a million readings, {MANY} shards", "s", costs[MANY])
    row.at_most(Kind.FLOOR, 1.15, f"those with {FEW} shard", costs[FEW])
    row.at_most(Kind.AIM, 1.05, f"those with {FEW} shard (flat)", costs[FEW])
    stage.results.rows.append(row)
    for shards, value in costs.items():
        stage.results.detail("CPU seconds a million readings by shards", f"{shards}", value, "s")
