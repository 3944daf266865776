"""Processes whose parent died: they become ours, so that none is left behind (Linux)."""

import ctypes
import os
import signal
import sys
from collections.abc import Collection, Iterator
from pathlib import Path

from .child import wait_until

_PR_SET_CHILD_SUBREAPER = 36


def adopt() -> None:
    """From now on a descendant whose parent dies becomes our child, not init's."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def reap(own: Collection[int]) -> None:
    """Clear away children that ended, but those in `own`, whose end is awaited elsewhere."""
    for pid in _children():
        if pid not in own:
            _reaped(pid)


def end_all(patience: float = 3.0) -> int:
    """Kill every child that is left and see it go; tells how many there were."""
    remaining = [pid for pid in _children() if not _reaped(pid)]
    for pid in remaining:
        os.kill(pid, signal.SIGKILL)
    for pid in remaining:
        wait_until(lambda pid=pid: _reaped(pid), patience)  # type: ignore[misc]
    return len(remaining)


def _reaped(pid: int) -> bool:
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return True


def _children() -> Iterator[int]:
    """The pids of our children, ended ones included."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = stat.read_text(encoding="utf-8", errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            continue
        # pid (name) state ppid …: the name may hold anything, a parenthesis too.
        if int(text.rpartition(")")[2].split()[1]) == os.getpid():
            yield int(stat.parent.name)
