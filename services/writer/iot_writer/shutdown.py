"""The shutdown flag of a writer process: SIGTERM sets it, and loops check it.

This module imports little, because a writer installs the handlers before it imports anything else.
"""

import signal
from threading import Event

requested = Event()


def install_signal_handlers() -> None:
    """Set the flag on SIGTERM and SIGINT. While RQ's loop runs, its handlers do that."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: requested.set())
