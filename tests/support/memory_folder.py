"""A folder in memory for servers that need no durability.

On a disk, Postgres takes a third more CPU time in the tests, because each test creates and
truncates tables.
"""

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from iot_tools.local.lock import DirectoryInUseError, DirectoryLock

_MEMORY = Path("/dev/shm")  # noqa: S108 -- the folders in it are private
_NEEDED_BYTES = 8 << 30
"""Free memory from which on the folder is in memory. The servers of one process of the tests take
up to 0.7 GB, mostly for the WAL of Postgres."""
_PREFIX = "iot-sensor-tests-"
_LOCKED_SECONDS = 60
"""Longest time until the lock of a new folder is held."""


@contextmanager
def memory_folder(on_disk: Path) -> Iterator[Path]:
    """Yield an empty folder in memory, which is deleted afterwards.

    Yield `on_disk` instead if the machine has too little memory for files.
    """
    if not _MEMORY.is_dir() or shutil.disk_usage(_MEMORY).free < _NEEDED_BYTES:
        yield on_disk
        return
    _delete_left_folders()
    with tempfile.TemporaryDirectory(prefix=_PREFIX, dir=_MEMORY) as name:
        lock = DirectoryLock(Path(name))
        lock.take()
        try:
            yield Path(name)
        finally:
            lock.release()


def _delete_left_folders() -> None:
    """Delete the folders of processes that were killed: nothing holds their locks."""
    for left in _MEMORY.glob(f"{_PREFIX}*"):
        lock = DirectoryLock(left)
        with suppress(DirectoryInUseError, OSError):
            if time.time() - left.stat().st_mtime < _LOCKED_SECONDS:
                continue
            lock.take()
            shutil.rmtree(left)
            lock.release()
