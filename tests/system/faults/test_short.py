"""A short fault run with every kind of fault loses no reading."""

import os
import subprocess
import sys
from pathlib import Path

from system.faults.kinds import KINDS
from system.faults.plan import make_plan

_SECONDS = 240
"""Timeout. The run takes a minute, and longer on a busy machine."""


def test_every_kind_of_fault_loses_no_reading() -> None:
    faults = len(KINDS)
    assert {planned.kind for planned in make_plan(1, faults)} == set(KINDS)
    # A separate process, as the run kills all its child processes at its end.
    tests = Path(__file__).parents[2]
    command = [sys.executable, "-m", "system.faults", "--seed", "1", "--faults", str(faults)]
    finished = subprocess.run(
        [*command, "--readings", "60000", "--repeats", "1", "--every", "0.9"],
        env={**os.environ, "PYTHONPATH": str(tests)},
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr


def test_a_plan_depends_only_on_its_seed() -> None:
    assert make_plan(7, 60) == make_plan(7, 60)
    assert make_plan(7, 60) != make_plan(8, 60)
