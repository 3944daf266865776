"""The shutdown flag of a writer process: SIGTERM sets it, and loops check it.

This module imports little, because the writer installs its handlers before all other imports.
"""

import signal
from queue import Empty, SimpleQueue


class ShutdownFlag:
    """A flag that a signal handler sets and the main thread waits for.

    `threading.Event` would not do: its lock is not reentrant. `set` in a signal handler deadlocks
    if the signal arrives while the main thread holds the lock in `wait`. `SimpleQueue.put` is
    reentrant (https://docs.python.org/3/library/queue.html#simplequeue-objects).
    """

    def __init__(self) -> None:
        self._set = False
        self._wakeups: SimpleQueue[None] = SimpleQueue()

    def set(self) -> None:
        """Set the flag. Safe in a signal handler."""
        self._set = True
        self._wakeups.put(None)

    def is_set(self) -> bool:
        """Return whether the flag is set."""
        return self._set

    def wait(self, seconds: float) -> bool:
        """Wait until the flag is set, for at most `seconds`. Return whether the flag is set."""
        if not self._set:
            try:
                self._wakeups.get(timeout=seconds)
            except Empty:
                return False
        return self._set


requested = ShutdownFlag()


def install_signal_handlers() -> None:
    """Install handlers for SIGTERM and SIGINT that set the shutdown flag (`requested`).

    While RQ's loop runs, RQ's handlers are installed. They set the flag, too (`DrainWorker`).
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: requested.set())
