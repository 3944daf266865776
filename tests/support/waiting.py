"""Waits for conditions, without fixed sleeps."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_until(condition: Callable[[], T], *, seconds: float = 15, what: str = "condition") -> T:
    """Return the first true value of `condition`. Fail the test after a timeout."""
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"{what} did not come true in {seconds} s (last: {value!r})")
        time.sleep(0.02)
