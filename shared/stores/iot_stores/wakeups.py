"""Ways in which a caller of the backlog waits until another caller wakes it up."""

import threading
from typing import Protocol


class Wakeup(Protocol):
    """Lets one caller wait until another caller wakes it up."""

    def wait(self) -> object:
        """Block until another caller calls `wake`. If `wake` was called before, do not block."""

    def wake(self) -> object:
        """Unblock the caller that is in `wait`."""


class ThreadWakeup:
    """Wakes up a thread, or a greenlet where gevent has patched threads."""

    def __init__(self) -> None:
        lock = threading.Lock()
        lock.acquire()
        self.wait, self.wake = lock.acquire, lock.release
