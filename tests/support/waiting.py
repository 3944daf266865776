"""Waits for conditions, without fixed sleeps, and limits on times."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

_LOAD = Path("/proc/loadavg")
_MIN_PAUSE = 0.02


def wait_until(
    condition: Callable[[], T],
    *,
    seconds: float = 120,
    what: str = "condition",
    max_pause: float = 0.25,
) -> T:
    """Return the first true value of `condition`. Fail the test after a timeout.

    The timeout ends tests that hang. It is long, so that no test fails because the machine is busy.
    The longer the wait, the longer the pauses between two calls of `condition`, up to `max_pause`:
    a call may take as much CPU time as a request.
    """
    began = time.monotonic()
    while True:
        value = condition()
        if value:
            return value
        waited = time.monotonic() - began
        if waited > seconds:
            raise AssertionError(f"{what} did not come true in {seconds} s (last: {value!r})")
        time.sleep(min(max_pause, max(_MIN_PAUSE, waited / 8)))


def stretched(seconds: float) -> float:
    """Return a limit on a time: `seconds` on an idle machine, more on a busy one.

    A process on a busy machine may wait for a turn of each process that can run.
    """
    runnable = [1.0, os.getloadavg()[0]]
    if _LOAD.exists():
        runnable.append(float(_LOAD.read_text().split()[3].partition("/")[0]))
    return seconds * max(runnable)
