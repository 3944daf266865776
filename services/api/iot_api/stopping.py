"""Whether this process was asked to end, for what has to know while it waits."""

from threading import Event

asked = Event()
