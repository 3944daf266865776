"""A wrong wall clock for real processes, which is ahead or behind and can step."""

import atexit
import shutil
import struct
import subprocess
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import pytest

_SOURCE = Path(__file__).with_suffix(".c")
DAY = 86_400
"""Seconds of a day."""


class ShiftedClock:
    """A wall clock for processes that run with its `environment`."""

    def __init__(self, path: Path, ahead: int = 0) -> None:
        """Create a clock that stores its shift in `path`. Skip the test without a C compiler."""
        self._path = path
        path.write_bytes(struct.pack("=q", ahead))
        self.environment = {"LD_PRELOAD": str(_library()), "SHIFTED_CLOCK": str(path)}

    def step_to(self, ahead: int) -> None:
        """Set how many seconds the clock is ahead. Negative values are behind."""
        with self._path.open("r+b", buffering=0) as file:
            file.write(struct.pack("=q", ahead))


@cache
def _library() -> Path:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler (cc) to shift the clock of a process")
    folder = Path(mkdtemp(prefix="shifted-clock-"))
    atexit.register(shutil.rmtree, folder)
    library = folder / "shifted_clock.so"
    options = ["-shared", "-fPIC", "-O1", "-Wall", "-Werror"]
    subprocess.run([compiler, *options, "-o", library, _SOURCE], check=True)
    return library
