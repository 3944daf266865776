"""A stopwatch that does not stand still while the machine is suspended."""

import time


class Stopwatch:
    """Measures the time since it was created. The result can be too large, but not too small.

    `time.monotonic` stands still during a suspend (Linux, macOS), and the system's clock can be set
    back. Therefore, the result is the larger of their differences. It is too large after the
    system's clock was set forward.
    """

    def __init__(self) -> None:
        self._system, self._monotonic = time.time(), time.monotonic()

    def seconds(self) -> float:
        """Return the seconds since the stopwatch was created."""
        return max(time.time() - self._system, time.monotonic() - self._monotonic)
