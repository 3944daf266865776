"""A fault: what it is given, what it is called, and what it stops."""

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass

from system.faults.service import Service

ACKNOWLEDGE, STORE = "acknowledge", "store"
"""What a fault may stop."""


@dataclass(frozen=True, slots=True)
class Scene:
    """What a fault is given: the service, how long to last, chance, and a word to end early."""

    service: Service
    seconds: float
    chance: random.Random
    over: threading.Event

    def last(self) -> None:
        """Let the fault last."""
        self.over.wait(self.seconds)


Act = Callable[[Scene], None]


def _nothing(_: Scene) -> None:
    """Prepare nothing."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of fault. Two of the same target never overlap. `stops` says what can't be expected
    while it lasts: that requests are acknowledged, that readings are stored.

    `holds` says that readings are held meanwhile and for some seconds more: vaults are missing in
    Postgres. Held readings are stored later than others, and so get higher ids.

    `prepare` does what does no harm yet, before the fault begins. `also` are further targets that
    nothing else may touch meanwhile.
    """

    name: str
    target: str
    stops: frozenset[str]
    act: Act
    prepare: Act = _nothing
    also: tuple[str, ...] = ()
    holds: bool = False

    @property
    def targets(self) -> list[str]:
        """All of its targets, in the order in which they are taken."""
        return sorted({self.target, *self.also})
