"""Recovery: how long after a fault's end the service does its work again, without help."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

from system.faults.fault import ACKNOWLEDGE, STORE, Kind
from system.faults.watch import Fronts

LIMIT_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Done:
    """A fault that was: its times by the monotonic clock."""

    number: int
    kind: Kind
    began: float
    ended: float


@dataclass(frozen=True, slots=True)
class Recovery:
    """Seconds from a fault's end until, less the time in which other faults stood in the way.

    `acknowledged`: the first 201. `committed`: the first new segment. `every_shard`: each shard
    has stored the entry that waited first at the fault's end.
    """

    done: Done
    acknowledged: float
    committed: float
    every_shard: float
    longest: float
    """The longest of the three by the clock on the wall, other faults or not."""

    @property
    def in_time(self) -> bool:
        """Whether all of it came soon enough."""
        return max(self.acknowledged, self.committed, self.every_shard) <= LIMIT_SECONDS


@dataclass(frozen=True, slots=True)
class Seen:
    """What was seen of the service at work, in the order of time."""

    acknowledged: Sequence[float]
    committed: Sequence[float]
    fronts: Sequence[tuple[float, Fronts]]


def recoveries(faults: Sequence[Done], seen: Seen) -> list[Recovery]:
    """Of every fault."""
    return [_recovery(done, faults, seen) for done in faults]


def _recovery(done: Done, faults: Sequence[Done], seen: Seen) -> Recovery:
    others = [each for each in faults if each is not done]
    acknowledged = _first(seen.acknowledged, done.ended)
    committed = _first(seen.committed, done.ended)
    every_shard = _fronts_gone(seen.fronts, done.ended)
    return Recovery(
        done,
        _undisturbed(done.ended, acknowledged, others, ACKNOWLEDGE),
        _undisturbed(done.ended, committed, others, STORE),
        _undisturbed(done.ended, every_shard, others, STORE),
        max(acknowledged, committed, every_shard) - done.ended,
    )


def _first(moments: Sequence[float], after: float) -> float:
    index = bisect_left(moments, after)
    return moments[index] if index < len(moments) else inf


def _fronts_gone(fronts: Sequence[tuple[float, Fronts]], after: float) -> float:
    index = bisect_left(fronts, after, key=lambda each: each[0])
    if index == len(fronts):
        return inf
    waiting = {shard: entry for shard, entry in enumerate(fronts[index][1]) if entry is not None}
    for moment, now in fronts[index:]:
        waiting = {shard: entry for shard, entry in waiting.items() if now[shard] == entry}
        if not waiting:
            return moment
    return inf


def _undisturbed(begin: float, end: float, others: Sequence[Done], path: str) -> float:
    """Seconds from begin to end in which none of the others stops the path."""
    if end == inf:
        return inf
    spans = sorted((each.began, each.ended) for each in others if path in each.kind.stops)
    seconds, reached = end - begin, begin
    for low, high in spans:
        overlap = min(high, end) - max(low, reached)
        if overlap > 0:
            seconds -= overlap
            reached = min(high, end)
    return seconds
