"""A process whose parent died is adopted and killed."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_CHILD_SUBREAPER needs Linux"),
    pytest.mark.timeout(60),
]

# A separate process, because `end_all` kills all children of the process.
SCRIPT = """
import os, subprocess, sys
from iot_tools.local import orphans

orphans.adopt()
if not (middle := os.fork()):
    sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
    orphan = subprocess.Popen(sleep, stdout=subprocess.DEVNULL, start_new_session=True)
    print(orphan.pid, flush=True)
    os._exit(0)
os.waitpid(middle, 0)
kept = subprocess.Popen([sys.executable, "-c", "raise SystemExit(7)"])
os.waitid(os.P_PID, kept.pid, os.WEXITED | os.WNOWAIT)
orphans.reap([kept.pid])
print(kept.wait(), orphans.end_all(), orphans.end_all())
"""


def test_orphans_are_adopted_and_killed() -> None:
    command = [sys.executable, "-c", SCRIPT]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=50)
    orphan, result = done.stdout.splitlines()
    assert result == "7 1 0"
    assert not Path(f"/proc/{orphan}").exists()
