"""A lock that one process of a pod holds at a time."""

import fcntl
import os
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_POLL_SECONDS = 0.02
_TIME = struct.Struct("d")
_folders: list[Path] = []
"""The folder that `share_locks` was called with; empty if it was not called."""


def share_locks(folder: Path) -> None:
    """Make this process and its children share the locks that they create after this call.

    The locks are files in `folder`.
    """
    _folders[:] = [folder]


class PodLock:
    """A lock that one process of a pod holds at a time.

    This process or its parent must call `share_locks` before the lock is created. Otherwise the
    process has a lock of its own, and always gets it. The kernel releases the lock of a killed
    process. The holder can set `time`, which later holders read.
    """

    def __init__(self, name: str) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        self._file = os.open(_folders[0] / name, flags, 0o600) if _folders else None
        self._time = 0.0

    @contextmanager
    def hold(self, seconds: float) -> Iterator[bool]:
        """Wait up to `seconds` for the lock; yield whether the block holds the lock."""
        end = time.monotonic() + seconds
        while not (held := self._take()) and time.monotonic() < end:
            time.sleep(_POLL_SECONDS)
        try:
            yield held
        finally:
            if held and self._file is not None:
                fcntl.flock(self._file, fcntl.LOCK_UN)

    def _take(self) -> bool:
        if self._file is None:
            return True
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    @property
    def time(self) -> float:
        """The time that the last holder set, by the monotonic clock, in seconds; 0.0 if none did.

        Only the process that holds the lock may set the time.
        """
        if self._file is None:
            return self._time
        content = os.pread(self._file, _TIME.size, 0)
        return float(_TIME.unpack(content)[0]) if len(content) == _TIME.size else 0.0

    @time.setter
    def time(self, value: float) -> None:
        self._time = value
        if self._file is not None:
            os.pwrite(self._file, _TIME.pack(value), 0)
