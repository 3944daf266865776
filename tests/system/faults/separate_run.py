"""A run in a separate process, because it kills all its child processes at its end."""

import os
import subprocess
import sys
from pathlib import Path

_TESTS = Path(__file__).parents[2]


def check_run(module: str, *arguments: str, seconds: float) -> None:
    """Run a module of the tests. Fail with its output unless it succeeds within `seconds`."""
    finished = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        env={**os.environ, "PYTHONPATH": str(_TESTS)},
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
