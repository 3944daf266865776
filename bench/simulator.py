"""A discrete-event simulator of the backlog: requests, shards, and drains by writers.

`python -m bench.simulator --rate 2000 --writers 2` prints how long readings take from acknowledged
to stored, and how many entries wait. `--check` runs the real service at several loads and prints
its figures beside the simulated ones. The costs of a drain are inputs. The simulator finds out how
many entries a drain takes, how long they wait, and when the backlog grows without limit.

Rules of the service: an append queues a drain of its shard, unless a drain of the shard is queued
already. An idle writer takes all queued drains, and stores the entries of their shards, up to a
limit, in one transaction. When the linger since the start of this drain is over, the writer looks
for queued drains again; if there are none, the writer is idle. A shard that another writer drains
is left to that writer.
"""

import argparse
import heapq
import random
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import count


class Arrivals(StrEnum):
    """How requests arrive."""

    POISSON = "poisson"
    PERIODIC = "periodic"
    BURSTY = "bursty"
    """All requests of a second arrive in its first tenth."""


@dataclass(frozen=True, slots=True)
class Load:
    """The requests that are sent."""

    rate: float
    """Requests/s."""
    batch: int = 1
    """Readings per request."""
    seconds: float = 20.0
    arrivals: Arrivals = Arrivals.POISSON


@dataclass(frozen=True, slots=True)
class Plant:
    """The service. Times are wall-clock seconds, and include waits for disks."""

    writers: int = 1
    shards: int = 8
    linger: float = 0.015
    """Shortest seconds from the start of a writer's drain to the start of its next one."""
    busy: float = 3000
    """With more entries a second, the linger of a writer grows."""
    max_linger: float = 0.05
    """The longest linger. It applies if `2 * busy` or more entries come in a second. Ignored if it
    is shorter than `linger`."""
    rest: float = 0.005
    """Shortest seconds from the end of a writer's drain to the start of its next one."""
    job: float = 0.003
    """Seconds until RQ has handed a job to an idle writer."""
    drain: float = 0.004
    """Fixed seconds of a drain. `entry` and `reading` come on top."""
    entry: float = 0.0001
    reading: float = 0.000003
    max_readings: int = 150_000
    """Largest number of readings in a drain."""
    backlog_readings: int = 10_000_000
    """Largest number of waiting readings. A request that would exceed it is refused."""

    def work(self, entries: int, readings: int) -> float:
        """Return the seconds of one drain."""
        return self.drain + entries * self.entry + readings * self.reading

    def limit(self, batch: int) -> float:
        """Return the most requests/s that can be stored, with full drains."""
        entries = max(1, self.max_readings // batch)
        writers = min(self.writers, self.shards)
        work = self.work(entries, entries * batch)
        return writers * entries / (work + self.pause(work, 0))

    def pause(self, work: float, rate: float) -> float:
        """Return the seconds between a drain that took `work` seconds and the next one.

        `rate` is how many entries a second the drain took.
        """
        grown = min(1.0, max(0.0, rate / self.busy - 1)) * (self.max_linger - self.linger)
        return max(self.linger + max(0.0, grown) - work, self.rest)


@dataclass(slots=True)
class SimulationResult:
    """The result of a simulation."""

    arrived: int = 0
    refused: int = 0
    drains: int = 0
    seconds: float = 0.0
    """Simulated seconds until the last request was stored."""
    busy: float = 0.0
    """Seconds that the writers spent in drains, added up over all writers."""
    waits: list[float] = field(default_factory=list)
    """Seconds from acknowledged to stored, for each request."""
    oldest_waits: list[float] = field(default_factory=list)
    """As `waits`, but only for the oldest request of each shard in a drain. The metric
    `iot_stored_after_seconds` measures the same in the service."""
    entry_seconds: float = 0.0
    """Waiting entries, integrated over time."""
    max_waiting: int = 0
    waiting_at_end: int = 0
    """Entries that waited when the last request arrived."""

    @property
    def stored(self) -> int:
        """Number of stored requests."""
        return len(self.waits)

    @property
    def entries_a_drain(self) -> float:
        """Mean number of entries in a drain."""
        return self.stored / max(1, self.drains)

    @property
    def waiting(self) -> float:
        """Mean number of entries in the backlog, over time."""
        return self.entry_seconds / self.seconds if self.seconds else 0.0


def quantile(values: Sequence[float], share: float) -> float:
    """Return the value below which the share `share` of the values lies, for example 0.99."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def arrival_times(load: Load, generator: random.Random) -> Iterator[float]:
    """Yield the times at which requests arrive, in seconds."""
    if load.arrivals is Arrivals.POISSON:
        now = generator.expovariate(load.rate)
        while now < load.seconds:
            yield now
            now += generator.expovariate(load.rate)
        return
    for number in range(int(load.rate * load.seconds)):
        even = number / load.rate
        yield int(even) + (even % 1) / 10 if load.arrivals is Arrivals.BURSTY else even


class _Shard:
    __slots__ = ("draining", "entries", "queued")

    def __init__(self) -> None:
        self.entries: deque[float] = deque()
        """Arrival times of the waiting entries. A drain removes its entries when it ends."""
        self.queued = False
        self.draining = False


class Simulation:
    """One run of the simulator."""

    def __init__(self, load: Load, plant: Plant, seed: int = 1) -> None:
        self._load, self._plant = load, plant
        self._generator = random.Random(seed)  # noqa: S311 - runs must be repeatable
        self._shards = [_Shard() for _ in range(plant.shards)]
        self._jobs: deque[int] = deque()
        self._free = list(range(plant.writers))
        self._began = [0.0] * plant.writers
        """When each writer began the last drain that it has completed."""
        self._events: list[tuple[float, int, str, tuple[int, ...]]] = []
        self._order = count()
        self._now = 0.0
        self._waiting = 0
        self._result = SimulationResult()

    def run(self) -> SimulationResult:
        """Run until all requests are stored."""
        result = self._result
        for moment in arrival_times(self._load, self._generator):
            self._advance(moment)
            self._arrive()
            result.waiting_at_end = self._waiting
        while self._events:
            self._advance(self._events[0][0])
        result.seconds = self._now
        return result

    def _advance(self, moment: float) -> None:
        """Process all events up to a moment."""
        while self._events and self._events[0][0] <= moment:
            at, _, what, arguments = heapq.heappop(self._events)
            self._pass(at)
            if what == "look":
                self._look(*arguments)
            else:
                self._end(*arguments)
        self._pass(moment)

    def _pass(self, moment: float) -> None:
        self._result.entry_seconds += self._waiting * (moment - self._now)
        self._now = moment

    def _at(self, moment: float, what: str, *arguments: int) -> None:
        heapq.heappush(self._events, (moment, next(self._order), what, arguments))

    def _arrive(self) -> None:
        result, plant = self._result, self._plant
        result.arrived += 1
        if (self._waiting + 1) * self._load.batch > plant.backlog_readings:
            result.refused += 1
            return
        number = self._generator.randrange(plant.shards)
        self._shards[number].entries.append(self._now)
        self._waiting += 1
        result.max_waiting = max(result.max_waiting, self._waiting)
        self._queue(number)

    def _queue(self, number: int) -> None:
        if not self._shards[number].queued:
            self._shards[number].queued = True
            self._jobs.append(number)
            self._wake()

    def _wake(self) -> None:
        # A job wakes an idle writer. A busy writer looks for jobs itself after its drain.
        if self._free:
            self._at(self._now + self._plant.job, "look", self._free.pop())

    def _look(self, writer: int) -> None:
        """Start a drain of all shards with a queued drain, up to the limit of readings.

        Leave out shards that another writer drains.
        """
        numbers = list(self._jobs)
        self._jobs.clear()
        room = max(1, self._plant.max_readings // self._load.batch)
        taken: list[int] = []
        left: list[int] = []
        for number in numbers:
            shard = self._shards[number]
            shard.queued = False
            entries = 0 if shard.draining else min(len(shard.entries), room)
            if entries:
                shard.draining = True
                taken += (number, entries)
                room -= entries
            elif shard.entries and not shard.draining:
                left.append(number)
        if taken:
            self._drain(writer, taken)
        else:
            self._free.append(writer)
        for number in left:
            self._queue(number)

    def _drain(self, writer: int, taken: list[int]) -> None:
        entries = sum(taken[1::2])
        work = self._plant.work(entries, entries * self._load.batch)
        self._result.busy += work
        self._at(self._now + work, "end", writer, *taken)

    def _end(self, writer: int, *taken: int) -> None:
        result = self._result
        for number, entries in zip(taken[::2], taken[1::2], strict=True):
            shard = self._shards[number]
            shard.draining = False
            result.oldest_waits.append(self._now - shard.entries[0])
            result.waits += [self._now - shard.entries.popleft() for _ in range(entries)]
            self._waiting -= entries
        result.drains += 1
        entries = sum(taken[1::2])
        work = self._plant.work(entries, entries * self._load.batch)
        began = self._now - work
        gathered = max(began - self._began[writer], self._plant.linger, 1e-9)
        self._began[writer] = began
        self._at(self._now + self._plant.pause(work, entries / gathered), "look", writer)
        for number in taken[::2]:
            if self._shards[number].entries:
                self._queue(number)


def simulate(load: Load, plant: Plant, seed: int = 1) -> SimulationResult:
    """Simulate a load. The same seed gives the same result."""
    return Simulation(load, plant, seed).run()


def summary(load: Load, plant: Plant, result: SimulationResult) -> list[tuple[str, str]]:
    """Return the lines to print: pairs of a name and a value as text."""
    return [
        ("most requests/s that can be stored", f"{plant.limit(load.batch):,.0f}"),
        ("acknowledged to stored, p50", f"{quantile(result.waits, 0.5) * 1000:.1f} ms"),
        ("acknowledged to stored, p99", f"{quantile(result.waits, 0.99) * 1000:.1f} ms"),
        ("drains/s", f"{result.drains / result.seconds:.1f}"),
        ("requests a drain", f"{result.entries_a_drain:.1f}"),
        ("mean of waiting requests", f"{result.waiting:.1f}"),
        ("maximum of waiting requests", f"{result.max_waiting:,}"),
        ("refused", f"{result.refused:,} of {result.arrived:,}"),
        ("busy time of a writer", f"{result.busy / result.seconds / plant.writers:.0%}"),
    ]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.simulator")
    load, plant = Load(1.0), Plant()
    parser.add_argument("--check", action="store_true", help="compare with the real service")
    parser.add_argument("--rate", type=float, default=500.0, help="requests/s")
    parser.add_argument("--batch", type=int, default=load.batch, help="readings per request")
    parser.add_argument(
        "--seconds", type=float, default=load.seconds, help="duration of the load in s"
    )
    parser.add_argument(
        "--arrivals",
        type=Arrivals,
        default=load.arrivals,
        choices=Arrivals,
        help="how requests are spread over time",
    )
    parser.add_argument("--writers", type=int, default=plant.writers, help="writer processes")
    parser.add_argument("--shards", type=int, default=plant.shards, help="shards of the backlog")
    parser.add_argument("--linger", type=float, default=plant.linger, help="linger in s")
    parser.add_argument("--drain", type=float, default=plant.drain, help="fixed seconds of a drain")
    parser.add_argument(
        "--entry", type=float, default=plant.entry, help="seconds per request in a drain"
    )
    parser.add_argument(
        "--reading", type=float, default=plant.reading, help="seconds per reading in a drain"
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Simulate one load, or compare several with the real service."""
    given = _parser().parse_args(arguments)
    if given.check:
        from .simulator_check import check  # noqa: PLC0415 - needs the service's packages

        return check(seconds=given.seconds)
    load = Load(given.rate, given.batch, given.seconds, given.arrivals)
    plant = Plant(
        writers=given.writers, shards=given.shards, linger=given.linger,
        drain=given.drain, entry=given.entry, reading=given.reading,
    )  # fmt: skip
    for name, value in summary(load, plant, simulate(load, plant)):
        print(f"{name:40}{value:>20}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
