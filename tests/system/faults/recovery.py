"""The recovery time: how long after a fault the service works again without intervention."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

from system.faults.fault import ACKNOWLEDGE, STORE, Kind
from system.faults.watch import Fronts

LIMIT_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Done:
    """A past fault. Times are from the monotonic clock."""

    number: int
    kind: Kind
    began: float
    ended: float


@dataclass(frozen=True, slots=True)
class Recovery:
    """Recovery times after a fault in seconds, without the time of other faults.

    `acknowledged` is the time to the first 201, `committed` to the first new segment, and
    `every_shard` until each shard has stored its oldest entry of the fault's end.
    """

    done: Done
    acknowledged: float
    committed: float
    every_shard: float
    longest: float
    """The longest of the three times, including the time of other faults."""

    @property
    def in_time(self) -> bool:
        """Whether all times are within the limit."""
        return max(self.acknowledged, self.committed, self.every_shard) <= LIMIT_SECONDS


@dataclass(frozen=True, slots=True)
class Seen:
    """Observed events of the service, in the order of time."""

    acknowledged: Sequence[float]
    committed: Sequence[float]
    fronts: Sequence[tuple[float, Fronts]]


def recoveries(faults: Sequence[Done], seen: Seen) -> list[Recovery]:
    """Return the recovery times of every fault."""
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
    """Return the seconds from begin to end in which no other fault stops the path."""
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
