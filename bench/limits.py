"""Time limits."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from iot_tools.local import child


@contextmanager
def within(seconds: float, what: str) -> Iterator[None]:
    """Raise `TimeoutError` in the main thread if the block, named `what`, takes longer."""

    def ring(number: int, frame: FrameType | None) -> None:
        del number, frame
        raise TimeoutError(f"{what}: not done after {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def wait_until(
    condition: Callable[[], bool], seconds: float, what: str, interval: float = 0.01
) -> None:
    """Wait up to `seconds` for a condition named `what`. Raise `TimeoutError` if it stays false."""
    if not child.wait_until(condition, seconds, interval):
        raise TimeoutError(f"{what}: not reached after {seconds:.0f} s")
