"""One user at a time for a directory."""

import fcntl
import os
import time
from pathlib import Path


class DirectoryInUseError(Exception):
    """Another process holds the directory; the message names both."""


class DirectoryLock:
    """An exclusive lock on a directory, kept by whoever holds the open file.

    A child that inherits `fileno()` holds it too: the directory stays locked until the last
    such process is gone, even if the one that took the lock was killed.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / "lock"
        self._file: int | None = None

    def take(self, patience: float = 0.0) -> None:
        """Take the lock, waiting up to `patience` seconds for an earlier holder to end.

        Raises:
            DirectoryInUseError: it is still held.
        """
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        deadline = time.monotonic() + patience
        while not _try_lock(descriptor):
            if time.monotonic() >= deadline:
                holder = os.pread(descriptor, 32, 0).decode().strip() or "unknown"
                os.close(descriptor)
                raise DirectoryInUseError(f"{self._path.parent} is in use by process {holder}")
            time.sleep(0.02)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        self._file = descriptor

    def fileno(self) -> int:
        """The open file that holds the lock, to be inherited by children."""
        if self._file is None:
            raise ValueError("the lock is not held")
        return self._file

    def release(self) -> None:
        """Let go; children that inherited it hold it on."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
