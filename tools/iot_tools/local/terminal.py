"""The few lines that `make run` shows."""

import os
import sys
import time


class Terminal:
    """Prints lines with the seconds since `started` (as of `time.time`) in front.

    A terminal that was closed is no reason to fail: children still have to be stopped.
    """

    def __init__(self, started: float) -> None:
        self.started = started

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return max(0.0, time.time() - self.started)

    def say(self, text: str) -> None:
        """What happens, with the time."""
        self.show(f"[{self.elapsed:5.1f} s] {text}")

    def show(self, text: str) -> None:
        """Lines as they are."""
        try:
            print(text, flush=True)
        except OSError:
            # Later lines, and Python's own flush at the end, go nowhere rather than fail.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
