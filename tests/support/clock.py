"""The current time in the unit of the stores."""

import time


def now() -> int:
    """Return the current time in Unix milliseconds."""
    return int(time.time() * 1000)
