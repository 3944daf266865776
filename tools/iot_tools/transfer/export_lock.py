"""The lock of an export: one process at a time writes a file."""

import fcntl
import os
from contextlib import suppress
from pathlib import Path

from iot_models.errors import IotError


class ExportLock:
    """An exclusive lock on the target file of an export.

    If the process ends without `release`, the kernel releases the lock.

    The lock has its own file: on NFS, a lock by `flock` on the SQLite file of the spool would keep
    SQLite from using the file.
    """

    def __init__(self, target: Path) -> None:
        """Take the lock.

        Raises:
            IotError: another process holds the lock.
            OSError: the lock file can't be created.
        """
        self._path = target.with_name(f".{target.name}.lock")
        self._file: int | None = None
        while self._file is None:
            descriptor = os.open(self._path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if self._is_current(descriptor):
                    self._file = descriptor
            except BlockingIOError:
                raise IotError(f"another export writes {target}: wait until it has ended") from None
            finally:
                if self._file is None:
                    os.close(descriptor)

    def release(self) -> None:
        """Delete the lock file, then release the lock.

        In the other order, another process could lock the file just before this process deletes it.
        """
        if self._file is not None:
            with suppress(FileNotFoundError):
                self._path.unlink()
            os.close(self._file)
            self._file = None

    def _is_current(self, descriptor: int) -> bool:
        """Return whether `_path` is still the file that is open as `descriptor`.

        If the previous holder has deleted the file meanwhile, a lock on it is worthless: other
        processes create and lock a new file.
        """
        try:
            return os.path.samestat(os.fstat(descriptor), self._path.stat())
        except FileNotFoundError:
            return False
