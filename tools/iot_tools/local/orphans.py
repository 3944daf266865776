"""Adopts descendants of this process whose parent has died, and ends them (Linux only)."""

import ctypes
import os
import signal
import sys
from collections.abc import Collection, Iterator
from pathlib import Path

from .child import wait_until

_PR_SET_CHILD_SUBREAPER = 36


def adopt() -> None:
    """Let the kernel make this process, not init, the parent of its orphaned descendants."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def reap(own: Collection[int]) -> None:
    """Reap children that have ended, except the pids in `own`, for which other code waits."""
    for pid in _children():
        if pid not in own:
            _reaped(pid)


def end_all() -> int:
    """Kill all children that still run, and wait until they have ended. Return their number."""
    remaining = [pid for pid in _children() if not _reaped(pid)]
    for pid in remaining:
        os.kill(pid, signal.SIGKILL)
    for pid in remaining:
        wait_until(lambda pid=pid: _reaped(pid), 3)  # type: ignore[misc]
    return len(remaining)


def _reaped(pid: int) -> bool:
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return True


def _children() -> Iterator[int]:
    """Yield the pids of all children, ended ones included."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = stat.read_text(encoding="utf-8", errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            continue
        # Format: pid (name) state ppid ... The name may contain a parenthesis.
        if int(text.rpartition(")")[2].split()[1]) == os.getpid():
            yield int(stat.parent.name)
