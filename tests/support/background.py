"""Runs a command on CPU time that nothing else needs: `python -m support.background COMMAND...`.

The tests of the running service wait half of their time. Tests that only compute run beside them in
the background, and do not slow them down.
"""

import ctypes
import os
import signal
import sys
from pathlib import Path

from iot_tools.local.launch import die_with

NICENESS = 5
"""Leaves a quarter of the CPU time of a busy core: enough for tests with timeouts of seconds."""


def step_back() -> None:
    """Lower the priority of this process and its children. End this process with its parent."""
    if sys.platform == "linux":
        die_with(os.getppid(), signal.SIGTERM, ctypes.CDLL(None, use_errno=True))
    os.nice(NICENESS)
    # Linux may share CPU time between sessions first: niceness then counts within a session only.
    os.setsid()
    session = Path("/proc/self/autogroup")
    if session.exists():
        session.write_text(str(NICENESS), encoding="ascii")


if __name__ == "__main__":
    step_back()
    os.execvp(sys.argv[1], sys.argv[1:])  # noqa: S606 - the caller's command
