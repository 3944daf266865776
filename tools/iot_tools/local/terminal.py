"""The output of `make run`."""

import os
import sys
import time


class Terminal:
    """Prints lines, prefixed with the seconds since `started` (Unix time in seconds).

    After the terminal was closed, lines are discarded without an error, because `make run` must
    still stop its child processes.
    """

    def __init__(self, started: float) -> None:
        self.started = started

    @property
    def elapsed(self) -> float:
        """The seconds since `started`."""
        return max(0.0, time.time() - self.started)

    def say(self, text: str) -> None:
        """Print a line, prefixed with the seconds since `started`."""
        self.show(f"[{self.elapsed:5.1f} s] {text}")

    def show(self, text: str) -> None:
        """Print lines without a prefix."""
        try:
            print(text, flush=True)
        except OSError:
            # Discard later output, and Python's flush at exit, instead of failing.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
