"""Devices with outboxes lose and double nothing, whatever fails."""

import os
import subprocess
import sys
from pathlib import Path

_SECONDS = 200
"""Timeout. The run takes half a minute, and longer on a busy machine."""


def test_outboxes_lose_and_double_nothing() -> None:
    # A separate process, as the run kills all its child processes at its end.
    tests = Path(__file__).parents[2]
    finished = subprocess.run(
        [sys.executable, "-m", "system.faults.outbox_run"],
        env={**os.environ, "PYTHONPATH": str(tests)},
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
