"""The time as the stores have it."""

import time


def now() -> int:
    """Unix milliseconds."""
    return int(time.time() * 1000)
