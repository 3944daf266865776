"""The plan, which gives the order and the times of faults for a seed."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from system.faults.fault import Kind
from system.faults.kinds import KINDS

EVERY_SECONDS = 1.7
"""Mean time between the starts of two faults, in seconds."""
_VARIES = (0.7, 1.3)
_LASTS = (1.0, 4.0)


@dataclass(frozen=True, slots=True)
class Planned:
    """A planned fault. Times are seconds after the start of the run."""

    number: int
    kind: Kind
    begins: float
    seconds: float


def make_plan(
    seed: int, count: int, kinds: Sequence[Kind] = KINDS, *, every: float = EVERY_SECONDS
) -> list[Planned]:
    """Return `count` faults in random order. Every kind occurs once before any kind repeats."""
    chance = random.Random(f"plan {seed}")
    planned: list[Planned] = []
    moment = 1.0
    deck: list[Kind] = []
    for number in range(count):
        if not deck:
            deck = chance.sample(kinds, len(kinds))
        recent = {each.kind.target for each in planned[-2:]}
        kind = next((each for each in deck if each.target not in recent), deck[0])
        deck.remove(kind)
        planned.append(Planned(number, kind, moment, chance.uniform(*_LASTS)))
        moment += every * chance.uniform(*_VARIES)
    return planned
