"""The file of an outbox: its space on the disk, interrupts, and other processes."""

import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from iot_sensor_client import (
    OutboxError,
    OutboxFullError,
    outbox_file,
    outbox_rejected,
    outbox_space,
)
from iot_sensor_client.batches import MAX_BYTES as MAX_BATCH_BYTES
from iot_sensor_client.outbox_file import Batch, OutboxFile

MAX_BYTES = 2**28
TRACED = {each.__file__ for each in (outbox_file, outbox_rejected, outbox_space)}
ROWS = ['{"freeform":"' + "x" * 200 + '"}'] * 100


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "readings.outbox"


def opened(path: Path, batch_size: int = 200) -> OutboxFile:
    """Open a file that does not wait for the disk: no test here cuts the power."""
    file = OutboxFile(path, MAX_BYTES, batch_size)
    database(file).execute("PRAGMA synchronous = OFF")
    return file


def database(file: OutboxFile) -> sqlite3.Connection:
    return file._db  # noqa: SLF001 -- the file is locked against other connections


def fill(*files: OutboxFile) -> int:
    """Append until all files are full. Return how many readings they took."""
    before = sum(each.counts().waiting for each in files)
    full: set[OutboxFile] = set()
    while len(full) < len(files):
        for each in files:
            try:
                each.append(ROWS)
            except OutboxFullError:
                full.add(each)
    return sum(each.counts().waiting for each in files) - before


def drain(file: OutboxFile, *, left: int = 0) -> None:
    while file.counts().waiting > left:
        file.remove(taken(file))


def taken(file: OutboxFile) -> Batch:
    batch = file.take()
    assert batch is not None
    return batch


def test_outboxes_that_filled_their_disk_have_room_again_when_they_are_empty(disk: Path) -> None:
    files = [opened(disk / f"{number}.outbox") for number in range(3)]
    first = fill(*files)
    for each in files:
        drain(each)
    assert fill(*files) > 0.9 * first
    for each in files:
        each.close()


def test_an_outbox_that_is_not_empty_uses_the_space_of_removed_readings(disk: Path) -> None:
    with_rest = opened(disk / "readings.outbox")
    first = fill(with_rest)
    drain(with_rest, left=first // 10)
    assert fill(with_rest) > 0.8 * first
    with_rest.close()


def test_an_outbox_leaves_its_space_to_others_when_it_is_empty(disk: Path) -> None:
    """It does so by itself: its program may never call it again."""
    emptied, other = opened(disk / "emptied.outbox"), opened(disk / "other.outbox")
    first = fill(emptied)
    with pytest.raises(OutboxFullError):
        other.append(ROWS)
    drain(emptied)
    assert fill(other) > 0.8 * first
    emptied.close()
    other.close()


def test_an_outbox_has_room_again_though_another_program_took_the_reserve(disk: Path) -> None:
    file = opened(disk / "readings.outbox")
    first = fill(file)
    with (disk / "ballast").open("wb") as ballast:
        ballast.truncate(outbox_space.RESERVE_BYTES)
    drain(file, left=first // 2)
    assert fill(file) == 0
    drain(file)
    assert fill(file) > 0.6 * first
    file.close()


def test_rejected_readings_do_not_block_the_space_of_others(disk: Path) -> None:
    """They fill half of the file, so its free space can't be returned to the disk."""
    file = opened(disk / "readings.outbox")
    first = fill(file)
    while file.counts().rejected < first // 2:
        file.set_aside(taken(file), "refused")
    drain(file)
    assert fill(file) > 0.25 * first
    assert file.counts().rejected >= first // 2
    file.close()


def test_a_batch_is_removed_once(path: Path) -> None:
    """The sender repeats a call that failed, even if it failed after its transaction."""
    file = opened(path)
    file.append(ROWS)
    file.append(ROWS)
    file.append(ROWS)
    batch = taken(file)
    for repeated in (file.remove, file.remove, lambda batch: file.set_aside(batch, "refused")):
        repeated(batch)
    assert file.counts().waiting == len(ROWS)
    assert file.counts().rejected == 0
    file.close()


def test_outboxes_of_a_folder_leave_the_reserve_to_each_other(disk: Path) -> None:
    """They are called at the same time, with readings that need half of the reserve."""
    files = [opened(disk / f"{number}.outbox") for number in range(4)]
    large = ["x" * (outbox_space.RESERVE_BYTES // 2)]

    def fill_with_large(file: OutboxFile) -> None:
        with suppress(OutboxFullError):
            while True:
                file.append(large)

    with ThreadPoolExecutor(len(files)) as threads:
        list(threads.map(fill_with_large, files))
    assert shutil.disk_usage(disk).free >= outbox_space.RESERVE_BYTES
    for each in files:
        drain(each)
        each.close()


def test_a_batch_without_room_for_a_reading_does_not_grow(path: Path) -> None:
    file = OutboxFile(path, MAX_BYTES, 10, added_bytes=100)
    file.append(["x" * (MAX_BATCH_BYTES - 200)])
    assert not file.grows()
    file.remove(taken(file))
    file.append(ROWS[:1])
    assert file.grows()
    file.close()


def test_removing_a_batch_needs_little_space(path: Path) -> None:
    """Each reading has a page of its own. SQLite may have been built with SECURE_DELETE."""
    file = opened(path, 500)
    file.append(["x" * 2040] * 1000)
    batch = taken(file)
    database(file).execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    file.remove(batch)
    assert Path(f"{path}-wal").stat().st_size < outbox_space.WAL_BYTES
    file.close()


def interrupted(number: int, act: Callable[[], object]) -> bool:
    """Interrupt a call at its `number`-th line in the code of the file, as Ctrl-C may. Return
    False if the call ended before.
    """
    lines = 0

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal lines
        if frame.f_code.co_filename not in TRACED:
            return None
        lines += event == "line"
        if event == "line" and lines == number:
            sys.settrace(None)
            raise KeyboardInterrupt
        return trace

    sys.settrace(trace)
    try:
        act()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(None)
    return False


CALLS: dict[str, Callable[[OutboxFile], object]] = {
    "append": lambda file: file.append(ROWS[:3]),
    "remove": lambda file: file.remove(taken(file)),
    "set_aside": lambda file: file.set_aside(taken(file), "refused"),
    "split": lambda file: file.split(taken(file)),
    "take_back": lambda file: file.take_back([1, 2], send=True),
    "discard": lambda file: file.take_back([1, 2], send=False),
}


@pytest.mark.parametrize("call", CALLS)
def test_an_interrupt_at_any_line_leaves_a_usable_file(disk: Path, call: str) -> None:
    number = 0
    while True:
        number += 1
        path = disk / f"{number}.outbox"
        file = opened(path, 4)
        file.append(ROWS[:4])
        file.set_aside(taken(file), "refused")
        file.append(ROWS[:6])
        if not interrupted(number, lambda: CALLS[call](file)):  # noqa: B023 -- called here
            break
        file.append(ROWS[:1])
        counts = file.counts()
        file.close()
        again = opened(path, 4)
        assert again.counts() == counts, f"line {number}"
        drain(again)
        assert again.take() is None
        again.close()
        path.unlink()
    assert number > 5


def test_split_batches_leave_nothing_behind(path: Path) -> None:
    file = opened(path)
    file.append(ROWS[:4])
    file.split(taken(file))
    assert len(taken(file).rows) == 2
    drain(file)
    assert database(file).execute("SELECT * FROM batches").fetchall() == []
    file.close()


def test_an_attempt_that_the_file_could_not_take_is_recorded_later(path: Path) -> None:
    """Otherwise, a batch that may be stored would be sent again after its key has expired."""
    file = opened(path)
    file.append(ROWS)
    batch = taken(file)
    refuse_writes(file, "UPDATE OF tried ON batches")
    with pytest.raises(OutboxError, match="no space"):
        file.note_attempt(batch)
    assert taken(file).tried == batch.taken
    accept_writes(file)
    file.close()
    file = opened(path)
    assert taken(file).tried == batch.taken
    file.close()


def test_a_batch_that_is_acknowledged_and_could_not_be_removed_counts_as_sent(path: Path) -> None:
    """Otherwise, it would be stored a second time after its key has expired."""
    file = opened(path)
    file.append(ROWS)
    batch = taken(file)
    refuse_writes(file, "DELETE ON readings")
    for _ in range(2):
        with pytest.raises(OutboxError, match="no space"):
            file.remove(batch)
    accept_writes(file)
    file.close()
    file = opened(path)
    assert taken(file).tried == batch.taken
    drain(file)
    file.append(ROWS)
    assert taken(file).tried is None
    file.close()


def refuse_writes(file: OutboxFile, change: str) -> None:
    database(file).execute(
        f"CREATE TEMP TRIGGER refuse BEFORE {change} BEGIN SELECT RAISE(ABORT, 'no space'); END"
    )


def accept_writes(file: OutboxFile) -> None:
    database(file).execute("DROP TRIGGER refuse")


_OPEN = """
import sys
from pathlib import Path
from iot_sensor_client import OutboxError
from iot_sensor_client.outbox_file import OutboxFile
kept = []
print("ready", flush=True)
for path in sys.stdin:
    try:
        kept.append(OutboxFile(Path(path.strip()), 1000, 10))
        print("opened", flush=True)
    except OutboxError:
        print("in use", flush=True)
"""


def test_of_processes_that_create_a_file_together_one_opens_it(tmp_path: Path) -> None:
    started = [
        subprocess.Popen(
            [sys.executable, "-c", _OPEN],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    processes = [(each, each.stdin, each.stdout) for each in started]
    for process, _, output in processes:
        assert output is not None
        assert output.readline() == "ready\n", process.args
    for number in range(2):
        for _, given, _ in processes:
            assert given is not None
            given.write(f"{tmp_path / str(number)}\n")
            given.flush()
        found = sorted(output.readline() for _, _, output in processes if output)
        assert found == ["in use\n", "opened\n"]
    for process in started:
        process.communicate()
