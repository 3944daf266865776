"""One process at a time holds the lock of a directory."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from iot_tools.local.lock import DirectoryInUseError, DirectoryLock


def test_an_error_names_the_process_that_holds_the_lock(tmp_path: Path) -> None:
    first, second = DirectoryLock(tmp_path), DirectoryLock(tmp_path)
    first.take()
    with pytest.raises(DirectoryInUseError, match=f"in use by process {os.getpid()}"):
        second.take()
    first.release()
    second.take()
    second.release()


def test_a_child_that_inherits_the_lock_keeps_the_lock(tmp_path: Path) -> None:
    first, second = DirectoryLock(tmp_path), DirectoryLock(tmp_path)
    first.take()
    command = [sys.executable, "-c", "input()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=[first.fileno()]) as child:
        first.release()
        with pytest.raises(DirectoryInUseError):
            second.take(0.05)
        child.communicate(b"\n")
    second.take(5)
    second.release()


def test_only_the_owner_can_read_the_lock_file(tmp_path: Path) -> None:
    lock = DirectoryLock(tmp_path)
    lock.take()
    assert (tmp_path / "lock").stat().st_mode & 0o777 == 0o600
    lock.release()
    with pytest.raises(ValueError, match="not held"):
        lock.fileno()
