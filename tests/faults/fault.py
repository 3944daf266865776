"""A fault: what it is given, what it is called, and what it stops."""

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass

from faults.service import Service

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


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of fault. Two of the same target never overlap. `stops` says what can't be expected
    while it lasts: that requests are acknowledged, that readings are stored.
    """

    name: str
    target: str
    stops: frozenset[str]
    act: Act
