"""Restarts child processes that die, and stops all of them in order."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from iot_tools.cli.shutdown_signals import ShutdownSignals

from .child import LaunchError

_FIRST_PAUSE = 0.5
_MAX_PAUSE = 30.0
_STABLE_AFTER = 60.0


class Part(Protocol):
    """What the supervisor needs of a child process, such as a `Child` or a `Server`."""

    @property
    def name(self) -> str: ...
    @property
    def pid(self) -> int: ...
    @property
    def running(self) -> bool: ...
    @property
    def ending(self) -> str: ...
    def spawn(self) -> None: ...
    def ready(self) -> bool: ...
    def stop(self) -> bool: ...
    def clear_group(self) -> None: ...
    def log_tail(self) -> str: ...


@dataclass
class _Watched:
    part: Part
    failures: int = 0
    up_since: float | None = None
    start_at: float | None = None


class Supervisor:
    """Supervises child processes (parts): restarts each part that dies, and stops all at the end.

    The delay before a restart is 0.5 s and doubles with each death of the part, up to 30 s. After a
    minute of life, the delay is 0.5 s again. Use the main thread only: on Linux, the kernel ends
    the parts when the thread that started them ends.
    """

    def __init__(self, say: Callable[[str], None], signals: ShutdownSignals) -> None:
        self._say = say
        self._signals = signals
        self._watched: list[_Watched] = []

    def start(self, parts: Iterable[Part], seconds: float = 60.0) -> None:
        """Start all parts, then wait until all are ready.

        After an exception, the parts that were started still run: call `stop`.

        Raises:
            LaunchError: a part could not be started, has ended already, or was not ready in time.
            ShutdownRequested: a signal arrived.
        """
        waiting = [_Watched(part) for part in parts]
        for watched in waiting:
            self._watched.append(watched)
            watched.part.spawn()
        deadline = time.monotonic() + seconds
        while not all(watched.part.ready() for watched in waiting):
            self._signals.check()
            for watched in waiting:
                _check_started(watched.part, late=time.monotonic() > deadline)
            self._signals.pause(0.02)
        for watched in waiting:
            watched.up_since = time.monotonic()

    @property
    def pids(self) -> list[int]:
        """The pids of all parts."""
        return [watched.part.pid for watched in self._watched]

    def tick(self, now: float) -> None:
        """Check every part once, and restart a dead part when its delay is over.

        `now` is `time.monotonic()`. Call this method often.
        """
        for watched in self._watched:
            if watched.part.running:
                self._note_progress(watched, now)
            elif watched.start_at is None:
                self._schedule_restart(watched, now)
            elif now >= watched.start_at:
                self._restart(watched)

    def stop(self) -> None:
        """Stop all parts and their process groups, in the reverse order of their start."""
        for watched in reversed(self._watched):
            if not watched.part.stop():
                self._say(f"{watched.part.name} did not end in time and was killed")
        self._watched.clear()

    def _note_progress(self, watched: _Watched, now: float) -> None:
        if watched.up_since is None and watched.part.ready():
            watched.up_since = now
            self._say(f"{watched.part.name} is back (process {watched.part.pid})")
        elif watched.up_since is not None and now - watched.up_since > _STABLE_AFTER:
            watched.failures = 0

    def _schedule_restart(self, watched: _Watched, now: float) -> None:
        part = watched.part
        pause = min(_MAX_PAUSE, _FIRST_PAUSE * 2**watched.failures)
        watched.failures = min(watched.failures + 1, 16)
        watched.up_since = None
        watched.start_at = now + pause
        self._say(f"{part.name} died ({part.ending}); starting it again in {pause:g} s")
        part.clear_group()

    def _restart(self, watched: _Watched) -> None:
        watched.start_at = None
        try:
            watched.part.spawn()
        except LaunchError as error:
            self._say(f"{watched.part.name}: {error}")


def _check_started(part: Part, *, late: bool) -> None:
    """Raise `LaunchError` if the part has ended, or if it is not ready and `late` is set."""
    if not part.running:
        raise LaunchError(f"{part.name} did not start ({part.ending}):\n{part.log_tail()}")
    if late and not part.ready():
        raise LaunchError(f"{part.name} was not ready in time:\n{part.log_tail()}")
