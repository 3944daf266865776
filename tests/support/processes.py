"""Processes as Linux shows them in /proc: finding, freezing and resuming children."""

import os
import signal
from contextlib import suppress
from pathlib import Path


def children(pid: int) -> list[int]:
    """Return the pids of the running children of a process, oldest first."""
    found = set()
    for listed in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            found |= {int(each) for each in listed.read_text().split()}
    return sorted(each for each in found if not has_ended(each))


def api_workers(master: int) -> set[int]:
    """Return the pids of a gunicorn master's workers that handle signals.

    A worker that does not handle signals yet misses SIGTERM. Of gunicorn's processes, only workers
    handle SIGABRT.
    """
    return {pid for pid in children(master) if handles(pid, signal.SIGABRT)}


def title(pid: int) -> str:
    """Return the command line of a process, empty if the process is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
    except OSError:
        return ""


def handles(pid: int, number: int) -> bool:
    """Return whether a process handles a signal."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return False
    handled = next((line.split()[1] for line in lines if line.startswith("SigCgt:")), "0")
    return bool(int(handled, 16) >> (number - 1) & 1)


def has_ended(pid: int) -> bool:
    """Return whether all threads of a process have ended.

    Its files are closed then, even if its parent has not waited for it yet.
    """
    try:
        states = [_state(thread) for thread in Path(f"/proc/{pid}/task").iterdir()]
    except OSError:
        return True
    return set(states) <= {"Z", "X", ""}


def freeze(pid: int) -> None:
    """Stop a process and then its children, so that the process starts no more children."""
    _signal(pid, signal.SIGSTOP)
    for each in children(pid):
        _signal(each, signal.SIGSTOP)


def thaw(pid: int) -> None:
    """Resume a process and its children."""
    for each in (*children(pid), pid):
        _signal(each, signal.SIGCONT)


def _signal(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def _state(task: Path) -> str:
    """Return the state of a process or thread by its directory in /proc; "" if it has ended."""
    try:
        return (task / "stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""
