"""The common part of the local Redis and Postgres servers."""

import signal
from abc import ABC, abstractmethod
from pathlib import Path

from .child import Child, LaunchError, Program
from .lock import DirectoryInUseError, DirectoryLock

_START_SECONDS = 20.0
_LOCK_SECONDS = 10.0


class Server(ABC):
    """A local Redis or Postgres server. It locks its data directory against other servers.

    The object keeps its `url` when the server is stopped or killed and then started again. The
    directory is created if missing, with mode 0700.
    """

    name: str

    def __init__(self, directory: Path, log: Path | None = None) -> None:
        self.directory = directory.absolute()
        self.log = (log or self.directory / f"{self.name}.log").absolute()
        self._child: Child | None = None

    @property
    @abstractmethod
    def url(self) -> str:
        """The address for clients. It contains the password, if there is one."""

    @abstractmethod
    def ready(self) -> bool:
        """Return whether the server accepts connections. The check takes at most a second."""

    @abstractmethod
    def _prepare(self) -> Program:
        """Prepare the data directory and return the program to run. The caller holds the lock."""

    def spawn(self) -> None:
        """Start the server without waiting until it is ready. Do nothing if it already runs.

        Raises:
            LaunchError: another process uses the data directory, or its content can't be used.
        """
        if self.running:
            return
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = DirectoryLock(self.directory)
        try:
            lock.take(_LOCK_SECONDS)
            child = Child(self._prepare(), ready=self.ready, inherit=[lock.fileno()])
            child.spawn()
            self._child = child
        except (DirectoryInUseError, OSError) as error:
            raise LaunchError(str(error)) from error
        finally:
            lock.release()

    def start(self) -> None:
        """Start the server and wait until it accepts connections.

        Raises like `spawn` and `Child.wait_ready`.
        """
        self.spawn()
        self._started.wait_ready(_START_SECONDS)

    def stop(self) -> bool:
        """Shut down the server, so that it saves its data. Return False if it had to be killed."""
        return self._child is None or self._child.stop()

    def kill(self, signal_number: int = signal.SIGKILL) -> None:
        """Send a signal to the server, if it runs."""
        if self._child is not None:
            self._child.kill(signal_number)

    def clear_group(self) -> None:
        """End the processes that are left in the process group after the server has ended."""
        if self._child is not None:
            self._child.clear_group()

    @property
    def pid(self) -> int:
        """The pid of the server that runs, or ran last."""
        return self._started.pid

    @property
    def _started(self) -> Child:
        if self._child is None:
            raise LaunchError(f"{self.name} was not started: call start first")
        return self._child

    @property
    def running(self) -> bool:
        """Whether the server process is alive."""
        return self._child is not None and self._child.running

    @property
    def ending(self) -> str:
        """How the server ended, for messages: for example "exit status 1" or "not started"."""
        return "not started" if self._child is None else self._child.ending

    def log_tail(self) -> str:
        """Return the last lines of the log."""
        return "" if self._child is None else self._child.log_tail()
