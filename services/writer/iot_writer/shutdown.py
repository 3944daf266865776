"""The shutdown flag of a writer process.

Imports little: the signal handlers are installed before everything else is imported.
"""

import signal
from threading import Event

requested = Event()


def install_signal_handlers() -> None:
    """Take note of SIGTERM and SIGINT, while RQ's handlers are not in place."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: requested.set())
