"""Processes as Linux shows them in /proc."""

import signal
from pathlib import Path


def heeds_sigterm(pid: int) -> bool:
    """Return whether the process handles SIGTERM. Before that, SIGTERM kills it at once."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt:"))
    return bool(int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1)


def api_workers(master: int) -> set[int]:
    """Return the pids of the workers of a gunicorn master."""
    children = Path(f"/proc/{master}/task/{master}/children").read_text(encoding="ascii")
    return {pid for pid in map(int, children.split()) if "metrics_server" not in _command(pid)}


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8")
    except (FileNotFoundError, ProcessLookupError):
        return "metrics_server"
