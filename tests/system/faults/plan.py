"""The plan: which faults come when, made from a seed and nothing else."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from system.faults.fault import Kind
from system.faults.kinds import KINDS

EVERY_SECONDS = 1.7
"""How long after a fault the next one begins, about."""
_VARIES = (0.7, 1.3)
_LASTS = (1.0, 4.0)


@dataclass(frozen=True, slots=True)
class Planned:
    """A fault to come, in seconds after the begin."""

    number: int
    kind: Kind
    begins: float
    seconds: float


def make_plan(
    seed: int, count: int, kinds: Sequence[Kind] = KINDS, *, every: float = EVERY_SECONDS
) -> list[Planned]:
    """`count` faults; every kind comes once before one comes again, in an order of chance."""
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
