"""Compare the simulator with the real service at the same loads.

Each load is simulated twice:

1. with the mean drain time that the service had under this load (`iot_drain_seconds`): this shows
   whether the model of the queue is right;
2. with costs of a drain that are fitted to three of the loads: this shows whether the simulator
   predicts the other loads.
"""

import random
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import cast

from redis import Redis

from iot_sensor_client import Client
from iot_tools.cli.tables import aligned
from iot_tools.local.ports import free_port

from .load import send
from .processes import sampled
from .readings import vault_name
from .service import KEYS, Service, running_service
from .simulator import Load, Plant, quantile, simulate

LOADS = (
    Load(20, 1), Load(600, 1), Load(60, 1000),
    Load(100, 1), Load(300, 1), Load(20, 1000), Load(100, 100),
)  # fmt: skip
FITTED = 3
"""Number of loads, from the first on, to which the costs of a drain are fitted."""
LANES = 16
_SAMPLE = re.compile(r"^(\w+)(?:\{([^}]*)\})? (\S+)$")

Samples = dict[str, float]


@dataclass(slots=True)
class Measured:
    """The figures of the real service under a load."""

    load: Load
    seconds: float
    drains: float
    drain_seconds: float
    """Mean seconds of a drain."""
    oldest_mean: float
    oldest_p50: float
    oldest_p99: float
    waiting: float

    @property
    def entries_a_drain(self) -> float:
        """Mean number of entries in a drain."""
        return self.load.rate * self.load.seconds / max(1.0, self.drains)


def check(*, seconds: float) -> int:
    """Measure, fit, simulate, and print the figures side by side."""
    port = free_port()
    settings = {"IOT_WRITER_METRICS_PORT": str(port), "IOT_METRICS_ADDRESS": "127.0.0.1"}
    with running_service(settings=settings) as service:
        vaults = [vault_name(number) for number in range(4 * LANES)]
        service.open_vaults(vaults)
        loads = [replace(load, seconds=seconds) for load in LOADS]
        measured = [_measure(service, port, load, vaults) for load in loads]
    plant = fit(measured[:FITTED])
    print(
        f"Fitted: a drain {plant.drain * 1e3:.2f} ms, a request in it {plant.entry * 1e6:.0f} us, "
        f"a reading {plant.reading * 1e6:.2f} us\n"
    )
    for line in aligned([_HEAD, *(_row(each, plant, measured) for each in measured)]):
        print(line)
    return 0


_HEAD = (
    "load (measured / simulated / predicted)", "drains/s", "requests a drain", "oldest: mean ms",
    "p50 ms", "p99 ms", "waiting",
)  # fmt: skip


def _row(each: Measured, fitted: Plant, all_of: Sequence[Measured]) -> Sequence[str]:
    variable = each.entries_a_drain * (fitted.entry + fitted.reading * each.load.batch)
    own = replace(fitted, drain=max(0.0, each.drain_seconds - variable))
    columns = zip(_figures(each), _simulated(each.load, own), _simulated(each.load, fitted),
                  strict=True)  # fmt: skip
    mark = " (fitted)" if each in all_of[:FITTED] else ""
    name = f"{each.load.rate:g}/s of {each.load.batch}{mark}"
    return [name, *(" / ".join(f"{figure:.1f}" for figure in column) for column in columns)]


def _figures(each: Measured) -> Sequence[float]:
    times = (each.oldest_mean, each.oldest_p50, each.oldest_p99)
    drains = each.drains / each.seconds
    return drains, each.entries_a_drain, *(1e3 * wait for wait in times), each.waiting


def _simulated(load: Load, plant: Plant) -> Sequence[float]:
    results = [simulate(load, plant, seed) for seed in range(3)]
    oldest = [wait for result in results for wait in result.oldest_waits]
    times = (_mean(oldest), quantile(oldest, 0.5), quantile(oldest, 0.99))
    drains = _mean(result.drains / result.seconds for result in results)
    entries = _mean(result.entries_a_drain for result in results)
    return (
        drains,
        entries,
        *(1e3 * wait for wait in times),
        _mean(result.waiting for result in results),
    )


def _mean(values: "Iterator[float] | Sequence[float]") -> float:
    listed = list(values)
    return sum(listed) / len(listed) if listed else 0.0


def fit(measured: Sequence[Measured]) -> Plant:
    """Return the costs of a drain, of a request and of a reading that explain the measured drains.

    Three loads give three equations. Gauss-Seidel iteration solves them; no cost is negative.
    """
    drain = entry = reading = 0.0
    few, many, batches = measured
    for _ in range(100):
        readings = batches.entries_a_drain * batches.load.batch
        reading = (
            max(0.0, batches.drain_seconds - drain - entry * batches.entries_a_drain) / readings
        )
        alone = entry + reading
        drain = max(0.0, few.drain_seconds - alone * few.entries_a_drain)
        entry = max(0.0, (many.drain_seconds - drain) / many.entries_a_drain - reading)
    return Plant(drain=drain, entry=entry, reading=reading)


def _measure(service: Service, port: int, load: Load, vaults: Sequence[str]) -> Measured:
    generator = random.Random(7)  # noqa: S311 - runs must be repeatable
    lanes = [_lane(service, load, vaults, generator.random(), lane) for lane in range(LANES)]
    before = scrape(port)
    began = time.perf_counter()
    with (
        Redis.from_url(service.redis_url) as client,
        sampled(lambda: _waiting(client, service.shards), 0.01) as waiting,
    ):
        send(service.port, lanes, service.wire.status)
        service.settle()
        seconds = time.perf_counter() - began
    after = scrape(port)
    used = {name: after[name] - before.get(name, 0.0) for name in after}
    stored = "iot_stored_after_seconds"
    return Measured(
        load=load,
        seconds=seconds,
        drains=used["iot_drain_seconds_count"],
        drain_seconds=used["iot_drain_seconds_sum"] / max(1.0, used["iot_drain_seconds_count"]),
        oldest_mean=used[f"{stored}_sum"] / max(1.0, used[f"{stored}_count"]),
        oldest_p50=_quantile(used, stored, 0.5),
        oldest_p99=_quantile(used, stored, 0.99),
        waiting=_mean(waiting),
    )


def _lane(
    service: Service, load: Load, vaults: Sequence[str], seed: float, lane: int
) -> Iterator[bytes]:
    """Yield the requests of one connection, when they are due.

    The requests of all connections together form a Poisson stream.
    """
    generator = random.Random(seed)  # noqa: S311 - runs must be repeatable
    wire, own = service.wire, vaults[lane::LANES]
    requests = [wire.request(wire.body(0, load.batch, vault)) for vault in own]
    due = began = time.perf_counter()
    while True:
        due += generator.expovariate(load.rate / LANES)
        if due - began > load.seconds:
            return
        time.sleep(max(0.0, due - time.perf_counter()))
        yield generator.choice(requests)


def _waiting(client: Redis, shards: int) -> float:
    """Return the number of entries that wait in all shards."""
    with client.pipeline(transaction=False) as pipeline:
        for shard in range(shards):
            pipeline.xlen(KEYS.stream(shard))
        return float(sum(cast("list[int]", pipeline.execute())))


def scrape(port: int) -> Samples:
    """Return every sample of a process's metrics, by name and labels."""
    client = Client(f"http://127.0.0.1:{port}", keep_alive=False)
    text = client.request("GET", "/metrics").text()
    samples: Samples = {}
    for line in text.splitlines():
        found = _SAMPLE.match(line)
        if found:
            labels = f"{{{found[2]}}}" if found[2] else ""
            samples[found[1] + labels] = float(found[3])
    return samples


def _quantile(used: Samples, name: str, share: float) -> float:
    """Return a quantile of a histogram, interpolated within its bucket."""
    bounds = sorted(
        (float(key.split('"')[1]), value)
        for key, value in used.items()
        if key.startswith(f"{name}_bucket")
    )
    wanted, low, below = share * bounds[-1][1], 0.0, 0.0
    for bound, value in bounds:
        if value >= wanted and value > below:
            high = min(bound, 2 * low or bound)
            return low + (high - low) * (wanted - below) / (value - below)
        low, below = bound, value
    return low
