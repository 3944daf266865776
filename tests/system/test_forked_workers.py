"""pytest-xdist's workers are forked from a process that has imported the tests."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
CONFTEST = """
from support.forked_workers import fork_workers
def pytest_xdist_setupnodes(config, specs):
    fork_workers(config, specs)
"""
SHOWN = """
import os, random
from pathlib import Path
IMPORTED_IN = os.getpid()
def test_shown():
    file = Path(__file__).with_name(os.environ["PYTEST_XDIST_WORKER"])
    file.write_text(f"{IMPORTED_IN} {os.getpid()} {random.random()}")
"""
KILLED = """
import os, signal
def test_killed():
    os.kill(os.getpid(), signal.SIGKILL)
def test_next():
    pass
"""
THREAD = """
import threading
threading.Thread(target=threading.Event().wait, daemon=True).start()
"""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks on Linux only")


def run(folder: Path, module: str, *options: str) -> "subprocess.CompletedProcess[str]":
    """Run the tests of a module in forked workers."""
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "test_module.py").write_text(module)
    (folder / "pytest.ini").write_text("[pytest]")
    return subprocess.run(
        [sys.executable, "-m", "pytest", *options, str(folder)],
        env=os.environ | {"PYTHONPATH": str(TESTS)},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_module_is_imported_once_for_all_workers(tmp_path: Path) -> None:
    done = run(tmp_path, SHOWN, "--numprocesses=2", "--dist=each")
    assert done.returncode == 0, done.stdout + done.stderr
    shown = [(tmp_path / worker).read_text().split() for worker in ("gw0", "gw1")]
    imported, pids, numbers = map(set, zip(*shown, strict=True))
    assert len(imported) == 1
    assert len(pids) == len(numbers) == 2
    assert not imported & pids


def test_a_killed_worker_is_replaced(tmp_path: Path) -> None:
    done = run(tmp_path, KILLED, "--numprocesses=1")
    assert "worker 'gw0' crashed while running 'test_module.py::test_killed'" in done.stdout
    assert "1 failed, 1 passed" in done.stdout


def test_a_thread_that_an_import_starts_is_reported(tmp_path: Path) -> None:
    done = run(tmp_path, THREAD, "--numprocesses=1")
    assert done.returncode != 0
    assert "a fork would not copy them" in done.stderr
