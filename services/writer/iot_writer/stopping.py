"""Whether this process was asked to end. Imports little: it is in place before all else loads."""

import signal
from threading import Event

asked = Event()


def heed_signals() -> None:
    """Take note of SIGTERM and SIGINT, while RQ's handlers are not in place."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: asked.set())
