"""The folder for the metrics files of the workers. An API removes the folders of killed APIs."""

import fcntl
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

_PREFIX = "iot-api-metrics-"


def create_metrics_folder() -> Path:
    """Create the folder in the directory for temporary files, lock it, and return it.

    This process and the workers that it forks hold the lock. Folders without a lock, which killed
    APIs left behind, are removed: in Kubernetes, the directory for temporary files outlives a
    killed container, and its space is part of the memory of the pod.
    """
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        _remove_if_unlocked(folder)
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
        lock = _lock(folder)
        if lock is not None and os.fstat(lock).st_nlink > 0:
            return folder
        # Another API that is starting found the folder before it was locked.
        if lock is not None:
            os.close(lock)


def _remove_if_unlocked(folder: Path) -> None:
    lock = _lock(folder)
    if lock is not None:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _lock(folder: Path) -> int | None:
    """Lock a folder, and return its file descriptor; None if it is locked or can't be opened."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            raise
        return descriptor
    return None
