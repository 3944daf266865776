"""Processes below one of ours: found, frozen, thawed."""

import os
import signal
from contextlib import suppress
from pathlib import Path


def children(pid: int) -> list[int]:
    """The pids of a process's living children, the oldest first."""
    found = set()
    for listed in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            found |= {int(each) for each in listed.read_text().split()}
    return sorted(each for each in found if not _is_zombie(each))


def title(pid: int) -> str:
    """Its command line; empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
    except OSError:
        return ""


def handles(pid: int, number: int) -> bool:
    """Whether a process has a handler of its own for a signal."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return False
    handled = next((line.split()[1] for line in lines if line.startswith("SigCgt:")), "0")
    return bool(int(handled, 16) >> (number - 1) & 1)


def freeze(pid: int) -> None:
    """Stop a process and its children; it first, so that it starts no more of them."""
    _signal(pid, signal.SIGSTOP)
    for each in children(pid):
        _signal(each, signal.SIGSTOP)


def thaw(pid: int) -> None:
    """Let a process and its children go on."""
    for each in (*children(pid), pid):
        _signal(each, signal.SIGCONT)


def _signal(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True
