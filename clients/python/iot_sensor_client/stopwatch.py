"""A stopwatch that does not stand still while the machine is suspended."""

import sys
import time


class Stopwatch:
    """Measures the time since it was created. Setting the system's clock does not change it."""

    def __init__(self) -> None:
        self._began = _now()

    def seconds(self) -> float:
        """Return the seconds since the stopwatch was created."""
        return _now() - self._began


def _now() -> float:
    # `time.monotonic` stands still during a suspend on Linux and macOS, but not on Windows.
    if sys.platform == "linux":
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    if sys.platform == "darwin":
        return time.clock_gettime(time.CLOCK_MONOTONIC)
    return time.monotonic()
