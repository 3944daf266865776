"""What the two servers of a machine have in common."""

import signal
from abc import ABC, abstractmethod
from pathlib import Path

from .child import Child, LaunchError, Program, wait_until
from .lock import DirectoryInUseError, DirectoryLock

_START_PATIENCE = 20.0
_LOCK_PATIENCE = 10.0


class Server(ABC):
    """A server that keeps its data in a directory of its own, and alone uses it.

    The address (`url`) stays the same over stops, kills and starts of one object. The directory
    is made if absent and is open to its owner alone.
    """

    name: str

    def __init__(self, directory: Path, log: Path | None = None) -> None:
        self.directory = directory.absolute()
        self.log = (log or self.directory / f"{self.name}.log").absolute()
        self._child: Child | None = None

    @property
    @abstractmethod
    def url(self) -> str:
        """Where clients reach it, credentials included: treat it as a secret."""

    @abstractmethod
    def ready(self) -> bool:
        """Whether it accepts connections now; answers within a second."""

    @abstractmethod
    def _prepare(self) -> Program:
        """Make the data directory what the server needs; called with the lock held."""

    def spawn(self) -> None:
        """Start the process without waiting until it is ready; nothing if it already runs.

        Raises:
            LaunchError: the data is in use by another process, or can't be set up.
        """
        if self.running:
            return
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = DirectoryLock(self.directory)
        try:
            lock.take(_LOCK_PATIENCE)
            child = Child(self._prepare(), inherit=[lock.fileno()])
            child.spawn()
            self._child = child
        except (DirectoryInUseError, OSError) as error:
            raise LaunchError(str(error)) from error
        finally:
            lock.release()

    def start(self) -> None:
        """Start it and return when it accepts connections.

        Raises:
            LaunchError: it ended or wasn't ready in time; the message holds the end of its log.
        """
        self.spawn()
        wait_until(lambda: not self.running or self.ready(), _START_PATIENCE)
        if not self.running or not self.ready():
            self.kill()
            raise LaunchError(f"{self.name} did not start ({self.ending}):\n{self.log_tail()}")

    def stop(self) -> bool:
        """End it gracefully; everything acknowledged is on disk then. Tells if it obeyed."""
        return self._child is None or self._child.stop()

    def kill(self, signal_number: int = signal.SIGKILL) -> None:
        """Send it a signal, as a fault would."""
        if self._child is not None:
            self._child.kill(signal_number)

    def clear_group(self) -> None:
        """End what it left behind when it died."""
        if self._child is not None:
            self._child.clear_group()

    @property
    def pid(self) -> int:
        """Of the server process that runs, or ran last."""
        if self._child is None:
            raise LaunchError(f"{self.name} was not started")
        return self._child.pid

    @property
    def running(self) -> bool:
        """Whether the process lives."""
        return self._child is not None and self._child.running

    @property
    def ending(self) -> str:
        """How the process ended, for people."""
        return "not started" if self._child is None else self._child.ending

    def log_tail(self) -> str:
        """The end of its log."""
        return "" if self._child is None else self._child.log_tail()
