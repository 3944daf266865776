"""Faults in which the clock of a process is wrong."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

from support.shifted_clock import DAY
from system.faults.fault import Scene
from system.faults.keeper import Keeper
from system.faults.signals import strike

AHEAD, BEHIND = 61 * DAY, -61 * DAY
"""More than the maximum age of an entry that a drain stores."""


def api(scene: Scene, ahead: int) -> None:
    """Shift the clock of the API, which must become not ready."""
    with _wrong(scene, "api", scene.service.api, ahead):
        scene.last()
        scene.service.wait_unready("clock")


def a_writer(scene: Scene, ahead: int) -> None:
    number = scene.chance.randrange(len(scene.service.writers))
    with _wrong(scene, f"writer-{number}", scene.service.writers[number], ahead):
        scene.last()


@contextmanager
def _wrong(scene: Scene, name: str, keeper: Keeper, ahead: int) -> Iterator[None]:
    """Start a process with a wrong clock, or step its clock, and step the clock back at the end."""
    clock = scene.service.clocks[name]
    clock.step_to(ahead)
    try:
        if scene.chance.random() < 0.5:
            strike(keeper, signal.SIGKILL)
        yield
    finally:
        clock.step_to(0)
