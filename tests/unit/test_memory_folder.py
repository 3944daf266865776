"""The folder in memory for the servers of the tests."""

import os
from pathlib import Path

import pytest

from iot_tools.local.lock import DirectoryLock
from support import memory_folder as module
from support.memory_folder import memory_folder


@pytest.fixture(autouse=True)
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that stands for /dev/shm."""
    folder = tmp_path / "memory"
    folder.mkdir()
    monkeypatch.setattr(module, "_MEMORY", folder)
    monkeypatch.setattr(module, "_NEEDED_BYTES", 0)
    return folder


def left_folder(age: int) -> Path:
    """Return a folder that a killed process has left `age` seconds ago."""
    with memory_folder(Path("unused")) as made:
        pass
    made.mkdir()
    (made / "lock").touch()
    os.utime(made, (made.stat().st_mtime - age,) * 2)
    return made


def test_the_folder_is_in_memory_and_deleted_afterwards(tmp_path: Path, memory: Path) -> None:
    with memory_folder(tmp_path) as made:
        assert made.parent == memory
        (made / "data").touch()
    assert list(memory.iterdir()) == []


def test_a_machine_with_little_memory_uses_the_disk(
    tmp_path: Path, memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_NEEDED_BYTES", 1 << 60)
    with memory_folder(tmp_path) as made:
        assert made == tmp_path
        assert list(memory.iterdir()) == []
    assert tmp_path.exists()


def test_a_folder_of_a_killed_process_is_deleted(tmp_path: Path) -> None:
    killed, new, used = left_folder(100), left_folder(0), left_folder(100)
    lock = DirectoryLock(used)
    lock.take()
    with memory_folder(tmp_path):
        assert [each.exists() for each in (killed, new, used)] == [False, True, True]
    lock.release()
