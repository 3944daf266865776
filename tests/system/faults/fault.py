"""The description of a fault, and the scene on which it acts."""

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass

from system.faults.service import Service

ACKNOWLEDGE, STORE = "acknowledge", "store"
"""The work that a fault may stop."""


@dataclass(frozen=True, slots=True)
class Scene:
    """The service under a fault, with the fault's duration, random generator and stop event."""

    service: Service
    seconds: float
    chance: random.Random
    over: threading.Event
    alert: str = ""
    """An alert that the fault must make fire."""

    def last(self) -> None:
        """Wait for the duration of the fault, and until its alert fires.

        Raises:
            TimeoutError: the alert does not fire.
        """
        self.over.wait(self.seconds)
        if self.alert and self.service.alerts is not None:
            self.service.alerts.wait_for(self.alert)


Act = Callable[[Scene], None]


def _nothing(_: Scene) -> None:
    """Do nothing."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of fault. Two faults of the same target never overlap. `stops` names the work that the
    fault may stop: acknowledgements, or storing readings.

    `holds` is true if readings are held during the fault and for some seconds after it, because
    vaults are missing in Postgres. Held readings are stored later and get higher ids.

    `prepare` runs before the fault begins, and does not disturb the service. `also` are further
    targets that no other fault may touch during this fault. `alert` fires in Prometheus before the
    fault ends.
    """

    name: str
    target: str
    stops: frozenset[str]
    act: Act
    prepare: Act = _nothing
    also: tuple[str, ...] = ()
    holds: bool = False
    alert: str = ""

    @property
    def targets(self) -> list[str]:
        """Return all targets, in the order of their locks."""
        return sorted({self.target, *self.also})
