"""The output of `make run`."""

import os
import sys
import time


class Terminal:
    """Prints lines, prefixed with the seconds since `started`, a time of `time.time`.

    A closed terminal is not an error, because the child processes must still be stopped.
    """

    def __init__(self, started: float) -> None:
        self.started = started

    @property
    def elapsed(self) -> float:
        """The seconds since the start."""
        return max(0.0, time.time() - self.started)

    def say(self, text: str) -> None:
        """Print a line with the time."""
        self.show(f"[{self.elapsed:5.1f} s] {text}")

    def show(self, text: str) -> None:
        """Print lines unchanged."""
        try:
            print(text, flush=True)
        except OSError:
            # Discard later output, and Python's flush at exit, instead of failing.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
