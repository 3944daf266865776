"""Child processes stop on request and never outlive their parent."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from iot_tools.local.child import Child, LaunchError, Program, wait_until

MakeChild = Callable[..., Child]

SLEEP = "import time; time.sleep(600)"
STUBBORN = """
import signal, time, pathlib
signal.signal(signal.SIGTERM, signal.SIG_IGN)
pathlib.Path("deaf").touch()
time.sleep(600)
"""
MASTER = """
import os, pathlib, time
worker = os.fork()
if worker:
    pathlib.Path("worker.new").write_text(str(worker))
    os.rename("worker.new", "worker")
time.sleep(600)
"""
# A parent that starts a child and is then killed.
PARENT = """
import sys, time
from pathlib import Path
from iot_tools.local.child import Child, Program
sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
child = Child(Program(name="sleeper", arguments=sleep, log=Path(sys.argv[1])))
child.spawn()
print(child.pid, flush=True)
time.sleep(600)
"""


def lives(pid: int) -> bool:
    """Return whether a process runs; a zombie does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in {"Z", "X"}


def test_output_goes_to_the_log(make_child: MakeChild) -> None:
    child = make_child("import sys; print('out'); print('err', file=sys.stderr)")
    child.run(10)
    assert child.program.log.read_text(encoding="utf-8") == "out\nerr\n"


def test_a_failing_run_shows_the_end_of_the_log(make_child: MakeChild) -> None:
    child = make_child("raise SystemExit('no disk left')", name="setup")
    with pytest.raises(LaunchError, match=r"setup failed \(exit status 1\):\n +no disk left"):
        child.run(10)


def test_a_run_that_takes_too_long_is_killed(make_child: MakeChild) -> None:
    child = make_child(SLEEP)
    with pytest.raises(LaunchError, match="still running"):
        child.run(0.1)
    assert not child.running


def test_a_missing_program_is_an_error(tmp_path: Path) -> None:
    child = Child(Program(name="x", arguments=["/nowhere/x"], log=tmp_path / "x.log"))
    with pytest.raises(LaunchError, match="No such file"):
        child.run(10)


def test_a_child_stops_at_sigterm(make_child: MakeChild) -> None:
    child = make_child(SLEEP)
    child.spawn()
    assert child.running
    assert child.stop()
    assert (child.running, child.ending) == (False, "SIGTERM")


def test_a_child_that_ignores_sigterm_is_killed(make_child: MakeChild, tmp_path: Path) -> None:
    child = make_child(STUBBORN, stop_seconds=0.1)
    child.spawn()
    assert wait_until((tmp_path / "deaf").exists, 10)
    assert not child.stop()
    assert child.ending == "SIGKILL"


def test_the_workers_of_a_dead_master_are_killed(make_child: MakeChild, tmp_path: Path) -> None:
    child = make_child(MASTER)
    child.spawn()
    assert wait_until((tmp_path / "worker").exists, 10)
    worker = int((tmp_path / "worker").read_text(encoding="utf-8"))
    child.kill(signal.SIGKILL)
    assert lives(worker)
    child.clear_group()
    assert not lives(worker)


def test_a_child_has_a_separate_session(make_child: MakeChild) -> None:
    child = make_child(SLEEP)
    child.spawn()
    assert os.getsid(child.pid) == child.pid


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG needs Linux")
def test_a_child_dies_with_its_killed_parent(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PARENT, str(tmp_path / "log")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert lives(child)
        parent.kill()
    assert wait_until(lambda: not lives(child), 10)
