"""One process of a pod holds a lock."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from iot_api.limits import pod_lock
from iot_api.limits.pod_lock import PodLock, share_locks

HOLDER = """
import sys
from pathlib import Path
from iot_api.limits.pod_lock import PodLock, share_locks
share_locks(Path(sys.argv[1]))
lock = PodLock("t")
with lock.hold(10) as held:
    lock.time = 42.0
    print(held, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder that the processes share."""
    monkeypatch.setattr(pod_lock, "_folders", [])
    share_locks(tmp_path)


def test_one_process_holds_the_lock_until_it_is_killed(tmp_path: Path) -> None:
    lock = PodLock("t")
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"True\n"
        began = time.monotonic()
        with lock.hold(0.1) as held:
            assert not held
        assert time.monotonic() - began >= 0.1
        holder.kill()
        with lock.hold(10) as held:
            assert held
            assert lock.time == 42.0
    with PodLock("t").hold(0) as held:
        assert held


def test_locks_of_other_names_are_free() -> None:
    with PodLock("t").hold(0) as one, PodLock("u").hold(0) as other:
        assert (one, other) == (True, True)


def test_a_damaged_time_counts_as_none(tmp_path: Path) -> None:
    lock = PodLock("t")
    assert lock.time == 0.0
    (tmp_path / "t").write_bytes(b"abc")
    assert lock.time == 0.0


def test_a_process_without_a_folder_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pod_lock, "_folders", [])
    lock = PodLock("t")
    with lock.hold(0) as held:
        assert held
        lock.time = 7.0
    assert lock.time == 7.0
