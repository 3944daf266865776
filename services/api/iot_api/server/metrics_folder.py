"""The folder for the metrics files of gunicorn's workers."""

import fcntl
import os
import shutil
import tempfile
from contextlib import ExitStack, suppress
from pathlib import Path

_PREFIX = "iot-api-metrics-"


def create_metrics_folder() -> Path:
    """Create the folder in the directory for temporary files, lock it, and return it.

    This process is gunicorn's master. The master and the workers that it forks hold the lock. A
    master that is killed leaves its folder behind, unlocked. So first remove all unlocked folders.
    In Kubernetes, the directory for temporary files outlives a killed container, and its space is
    part of the pod's memory.
    """
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        if (lock := _lock(folder)) is not None:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
        # Another API that is starting may have removed the folder before it was locked.
        if _lock(folder) is not None:
            return folder


def _lock(folder: Path) -> int | None:
    """Lock a folder, and return its file descriptor.

    Return None if the folder is locked or removed, or can't be opened.
    """
    with suppress(OSError), ExitStack() as opened:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        opened.callback(os.close, descriptor)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(descriptor).st_nlink > 0:
            opened.pop_all()
            return descriptor
    return None
