"""A simulator of the queue: requests -> shards -> drains by writers, event by event.

`python -m bench.simulator --rate 2000 --writers 2` tells how long readings take from acknowledged
to stored and how much waits meanwhile; `--check` runs the real service at a few loads and prints
both. What a drain costs is given; what comes of it (how many entries a drain gathers, how long they
wait, when the backlog grows without end) is found by playing it through.

As in the service: an append queues its shard's drain unless it waits already. A writer that is
idle takes up the job, and with it all drains that wait; it stores what those shards hold, up to a
limit, in one transaction. A linger later it looks for more, and is idle again when there is none. A
shard that another writer is at is left to it.
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
    """How requests come."""

    POISSON = "poisson"
    PERIODIC = "periodic"
    BURSTY = "bursty"
    """A second's requests within a tenth of it, then nothing."""


@dataclass(frozen=True, slots=True)
class Load:
    """What is sent."""

    rate: float
    """Requests a second."""
    batch: int = 1
    """Readings a request."""
    seconds: float = 20.0
    arrivals: Arrivals = Arrivals.POISSON


@dataclass(frozen=True, slots=True)
class Plant:
    """What serves it. Times are seconds of the clock: CPU and waiting for disks alike."""

    writers: int = 1
    shards: int = 8
    linger: float = 0.025
    """Between two drains of a writer."""
    job: float = 0.003
    """Until RQ has handed a job to a writer that is idle."""
    drain: float = 0.004
    """Of a drain, whatever is in it."""
    entry: float = 0.0001
    reading: float = 0.000003
    most_readings: int = 150_000
    """Of one drain."""
    backlog_readings: int = 10_000_000
    """That may wait; beyond it requests are refused."""

    def work(self, entries: int, readings: int) -> float:
        """How long one drain takes."""
        return self.drain + entries * self.entry + readings * self.reading

    def limit(self, batch: int) -> float:
        """Requests a second that can be stored at most, drains being full."""
        entries = max(1, self.most_readings // batch)
        writers = min(self.writers, self.shards)
        return writers * entries / (self.linger + self.work(entries, entries * batch))


@dataclass(slots=True)
class Played:
    """What came of it."""

    arrived: int = 0
    refused: int = 0
    drains: int = 0
    seconds: float = 0.0
    """Until the last was stored."""
    busy: float = 0.0
    """Seconds that writers worked, added up."""
    waits: list[float] = field(default_factory=list)
    """From acknowledged to stored, of every request."""
    oldest_waits: list[float] = field(default_factory=list)
    """Of each drained shard's oldest, which is what `iot_stored_after_seconds` tells."""
    entry_seconds: float = 0.0
    """Entries that wait, integrated over time."""
    max_waiting: int = 0
    waiting_at_end: int = 0
    """When the last request came."""

    @property
    def stored(self) -> int:
        """Requests."""
        return len(self.waits)

    @property
    def entries_a_drain(self) -> float:
        """On average."""
        return self.stored / max(1, self.drains)

    @property
    def waiting(self) -> float:
        """Entries in the backlog, on average over time."""
        return self.entry_seconds / self.seconds if self.seconds else 0.0


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which that share of them lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def moments(load: Load, chance: random.Random) -> Iterator[float]:
    """When requests come."""
    if load.arrivals is Arrivals.POISSON:
        now = chance.expovariate(load.rate)
        while now < load.seconds:
            yield now
            now += chance.expovariate(load.rate)
        return
    for number in range(int(load.rate * load.seconds)):
        even = number / load.rate
        yield int(even) + (even % 1) / 10 if load.arrivals is Arrivals.BURSTY else even


class _Shard:
    __slots__ = ("entries", "queued", "taken")

    def __init__(self) -> None:
        self.entries: deque[float] = deque()
        """When those that wait came; what a drain is at is still among them."""
        self.queued = False
        self.taken = False


class Simulation:
    """One run."""

    def __init__(self, load: Load, plant: Plant, seed: int = 1) -> None:
        self._load, self._plant = load, plant
        self._chance = random.Random(seed)  # noqa: S311 - it is to be repeatable
        self._shards = [_Shard() for _ in range(plant.shards)]
        self._jobs: deque[int] = deque()
        self._free = list(range(plant.writers))
        self._events: list[tuple[float, int, str, tuple[int, ...]]] = []
        self._order = count()
        self._now = 0.0
        self._held = 0
        self._played = Played()

    def run(self) -> Played:
        """Play until all is stored."""
        played = self._played
        for moment in moments(self._load, self._chance):
            self._advance(moment)
            self._arrive()
            played.waiting_at_end = self._held
        while self._events:
            self._advance(self._events[0][0])
        played.seconds = self._now
        return played

    def _advance(self, moment: float) -> None:
        """Let everything happen up to a moment."""
        while self._events and self._events[0][0] <= moment:
            at, _, what, arguments = heapq.heappop(self._events)
            self._pass(at)
            if what == "look":
                self._look(*arguments)
            else:
                self._end(*arguments)
        self._pass(moment)

    def _pass(self, moment: float) -> None:
        self._played.entry_seconds += self._held * (moment - self._now)
        self._now = moment

    def _at(self, moment: float, what: str, *arguments: int) -> None:
        heapq.heappush(self._events, (moment, next(self._order), what, arguments))

    def _arrive(self) -> None:
        played, plant = self._played, self._plant
        played.arrived += 1
        if (self._held + 1) * self._load.batch > plant.backlog_readings:
            played.refused += 1
            return
        number = self._chance.randrange(plant.shards)
        self._shards[number].entries.append(self._now)
        self._held += 1
        played.max_waiting = max(played.max_waiting, self._held)
        self._queue(number)

    def _queue(self, number: int) -> None:
        if not self._shards[number].queued:
            self._shards[number].queued = True
            self._jobs.append(number)
            self._wake()

    def _wake(self) -> None:
        # It wakes one that is idle; a writer that is not looks for itself, a linger later.
        if self._free:
            self._at(self._now + self._plant.job, "look", self._free.pop())

    def _look(self, writer: int) -> None:
        """Take the drains that wait; their shards up to a limit, but for those taken."""
        numbers = list(self._jobs)
        self._jobs.clear()
        room = max(1, self._plant.most_readings // self._load.batch)
        taken: list[int] = []
        left: list[int] = []
        for number in numbers:
            shard = self._shards[number]
            shard.queued = False
            entries = 0 if shard.taken else min(len(shard.entries), room)
            if entries:
                shard.taken = True
                taken += (number, entries)
                room -= entries
            elif shard.entries and not shard.taken:
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
        self._played.busy += work
        self._at(self._now + work, "end", writer, *taken)

    def _end(self, writer: int, *taken: int) -> None:
        played = self._played
        for number, entries in zip(taken[::2], taken[1::2], strict=True):
            shard = self._shards[number]
            shard.taken = False
            played.oldest_waits.append(self._now - shard.entries[0])
            played.waits += [self._now - shard.entries.popleft() for _ in range(entries)]
            self._held -= entries
        played.drains += 1
        self._at(self._now + self._plant.linger, "look", writer)
        for number in taken[::2]:
            if self._shards[number].entries:
                self._queue(number)


def simulate(load: Load, plant: Plant, seed: int = 1) -> Played:
    """Play a load through a plant. The same seed gives the same."""
    return Simulation(load, plant, seed).run()


def told(load: Load, plant: Plant, played: Played) -> list[tuple[str, str]]:
    """For people."""
    return [
        ("requests/s that can be stored at most", f"{plant.limit(load.batch):,.0f}"),
        ("acknowledged to stored, p50", f"{quantile(played.waits, 0.5) * 1000:.1f} ms"),
        ("acknowledged to stored, p99", f"{quantile(played.waits, 0.99) * 1000:.1f} ms"),
        ("drains/s", f"{played.drains / played.seconds:.1f}"),
        ("requests a drain", f"{played.entries_a_drain:.1f}"),
        ("requests waiting, on average", f"{played.waiting:.1f}"),
        ("requests waiting, at most", f"{played.max_waiting:,}"),
        ("refused", f"{played.refused:,} of {played.arrived:,}"),
        ("a writer's time at work", f"{played.busy / played.seconds / plant.writers:.0%}"),
    ]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.simulator")
    load, plant = Load(1.0), Plant()
    parser.add_argument("--check", action="store_true", help="beside the real service")
    parser.add_argument("--rate", type=float, default=500.0, help="requests a second")
    parser.add_argument("--batch", type=int, default=load.batch, help="readings a request")
    parser.add_argument("--seconds", type=float, default=load.seconds)
    parser.add_argument("--arrivals", type=Arrivals, default=load.arrivals, choices=Arrivals)
    parser.add_argument("--writers", type=int, default=plant.writers)
    parser.add_argument("--shards", type=int, default=plant.shards)
    parser.add_argument("--linger", type=float, default=plant.linger, help="seconds")
    parser.add_argument("--drain", type=float, default=plant.drain, help="seconds a drain")
    parser.add_argument("--entry", type=float, default=plant.entry, help="seconds a request in it")
    parser.add_argument("--reading", type=float, default=plant.reading, help="and a reading")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Simulate one load, or compare with the real service."""
    given = _parser().parse_args(arguments)
    if given.check:
        from .simulator_check import check  # noqa: PLC0415 - needs the service's packages

        return check(seconds=given.seconds)
    load = Load(given.rate, given.batch, given.seconds, given.arrivals)
    plant = Plant(
        writers=given.writers, shards=given.shards, linger=given.linger,
        drain=given.drain, entry=given.entry, reading=given.reading,
    )  # fmt: skip
    for name, value in told(load, plant, simulate(load, plant)):
        print(f"{name:40}{value:>20}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
