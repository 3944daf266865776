"""The current time in the unit of the stores, and a clock that a test sets."""

import time


def now() -> int:
    """Return the current time in Unix milliseconds."""
    return int(time.time() * 1000)


class Clock:
    """A clock that stands still until a test sets `now`, in seconds."""

    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def monotonic(self) -> float:
        """Return the time, in place of `time.monotonic`."""
        return self.now
