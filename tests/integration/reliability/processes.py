"""Processes as the system sees them."""

from pathlib import Path


def api_workers(master: int) -> set[int]:
    """The pids of a gunicorn master's workers."""
    children = Path(f"/proc/{master}/task/{master}/children").read_text(encoding="ascii")
    return {pid for pid in map(int, children.split()) if "metrics_server" not in _command(pid)}


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8")
    except (FileNotFoundError, ProcessLookupError):
        return "metrics_server"
