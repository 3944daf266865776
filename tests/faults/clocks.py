"""Faults of wall clocks: a process's is months off for a while, and right again."""

import shutil

from faults.fault import Scene
from support.shifted_clock import DAY, ShiftedClock

CLOCK = "clock 61 days off"
"""What the names of these kinds end with."""


def can_shift_clocks() -> bool:
    """Whether this machine has what it takes: a C compiler."""
    return shutil.which("cc") is not None


def api_clock(scene: Scene) -> None:
    _shift(scene, scene.service.clocks["api"])


def writer_clock(scene: Scene) -> None:
    _shift(scene, scene.service.clocks[scene.chance.choice(["writer-0", "writer-1"])])


def _shift(scene: Scene, clock: ShiftedClock) -> None:
    clock.step_to(scene.chance.choice([61, -61]) * DAY)
    try:
        scene.last()
    finally:
        clock.step_to(0)
