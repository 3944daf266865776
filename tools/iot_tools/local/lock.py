"""A lock on a directory, for one process at a time."""

import fcntl
import os
from pathlib import Path

from .child import wait_until


class DirectoryInUseError(Exception):
    """Another process holds the lock. The message names the directory and that process."""


class DirectoryLock:
    """An exclusive lock on a directory. A child that inherits the descriptor holds the lock too.

    The directory stays locked until the last holder has ended, even if the process that took the
    lock was killed.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / "lock"
        self._file: int | None = None

    def take(self, seconds: float = 0.0) -> None:
        """Take the lock. If another process holds it, wait up to `seconds` for its release.

        Raises:
            DirectoryInUseError: the other process still holds the lock.
        """
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if not wait_until(lambda: _try_lock(descriptor), seconds, interval=0.02):
            holder = os.pread(descriptor, 32, 0).decode().strip() or "unknown"
            os.close(descriptor)
            raise DirectoryInUseError(f"{self._path.parent} is in use by process {holder}")
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        self._file = descriptor

    def fileno(self) -> int:
        """Return the descriptor of the lock file, for children to inherit."""
        if self._file is None:
            raise ValueError(f"the lock of {self._path.parent} is not held: call take first")
        return self._file

    def release(self) -> None:
        """Release the lock of this process. Children that inherited the lock still hold it."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
