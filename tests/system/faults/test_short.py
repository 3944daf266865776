"""The fault harness at a small scale: every kind of fault once, under load, nothing lost."""

import os
import subprocess
import sys
from pathlib import Path

from system.faults.kinds import KINDS
from system.faults.plan import make_plan

_SECONDS = 240
"""Far above the minute it takes: a machine that does much else at the time is no failure."""


def test_every_kind_of_fault_once() -> None:
    faults = len(KINDS)
    assert {planned.kind for planned in make_plan(1, faults)} == set(KINDS)
    # A process of its own: at its end it kills every process that is left below it.
    tests = Path(__file__).parents[2]
    command = [sys.executable, "-m", "system.faults", "--seed", "1", "--faults", str(faults)]
    finished = subprocess.run(
        [*command, "--readings", "60000", "--repeats", "1", "--every", "1.2"],
        env={**os.environ, "PYTHONPATH": str(tests)},
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr


def test_a_plan_is_made_from_its_seed_alone() -> None:
    assert make_plan(7, 60) == make_plan(7, 60)
    assert make_plan(7, 60) != make_plan(8, 60)
