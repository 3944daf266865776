"""The shutdown flag of an API worker: set by SIGTERM."""

from threading import Event

requested = Event()
