"""Readings that were set aside, in the file of an outbox."""

import shutil
from functools import partial
from pathlib import Path

from iot_sensor_client import outbox_space
from iot_sensor_client.outbox_file import OutboxFile
from unit.client.test_outbox_file import ROWS, database, drain, opened, taken


def test_setting_readings_aside_needs_little_space(path: Path) -> None:
    """A full disk has no room for a second copy of a reading, or for a reason of each reading."""
    file = opened(path, 1)
    file.append(["x" * 3_000_000, *ROWS * 10])
    database(file).execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    before, held = path.stat().st_size, file.counts().bytes
    reasons = ["relative_time is not an integer" * 5, "freeform is too long" * 5]
    while file.counts().waiting:
        file.set_aside(taken(file), reasons[file.counts().waiting % 2])
    assert Path(f"{path}-wal").stat().st_size < outbox_space.WAL_BYTES
    counts = file.counts()
    assert counts.bytes == held + sum(len(each) + 32 for each in reasons)
    assert [each.reason for each in file.rejected()[1:3]] == reasons
    file.close()
    assert path.stat().st_size < before + 2**16
    file = opened(path)
    assert file.counts() == counts
    file.close()


def test_readings_set_aside_for_one_reason_share_an_entry(path: Path) -> None:
    file = opened(path, 2)
    file.append(ROWS[:6])
    file.set_aside(taken(file), "refused")
    file.remove(taken(file))
    file.set_aside(taken(file), "refused")
    assert len(database(file).execute("SELECT * FROM rejections").fetchall()) == 1
    assert [each.id for each in file.rejected()] == [1, 2, 5, 6]
    file.append(ROWS[:1])
    assert file.take_back([1, 2, 3, 5, 7], send=False) == 3
    assert file.take_back([6], send=True) == 1
    drain(file)
    assert file.counts().bytes == 0
    file.close()


def rejected_apart(path: Path, count: int) -> OutboxFile:
    """Open a file with rejected readings that share no entry."""
    file = opened(path, 1)
    file.append(['{"relative_time": 1}'] * count)
    file.set_aside(taken(file), "refused")
    database(file).executescript(
        "UPDATE rejections SET at = 0; DELETE FROM batches;"
        "INSERT INTO rejections SELECT id, id, reason, 0 FROM readings, rejections WHERE id > 1;"
    )
    file.close()
    return opened(path, 1)


def test_the_cost_of_taking_back_a_reading_does_not_grow(disk: Path) -> None:
    ratios = []
    for count in (500, 4000):
        file = rejected_apart(disk / f"{count}.outbox", count)
        rejected = [each.id for each in file.rejected()]
        steps: list[None] = []
        database(file).set_progress_handler(partial(steps.append, None), 100)
        assert file.take_back(rejected, send=False) == count
        file.close()
        ratios.append(len(steps) / count)
    assert ratios[1] < 1.5 * ratios[0]


def test_readings_are_taken_back_in_one_transaction_if_the_disk_has_room(path: Path) -> None:
    file = rejected_apart(path, 1000)
    statements: list[str] = []
    database(file).set_trace_callback(statements.append)
    assert file.take_back([each.id for each in file.rejected()], send=True) == 1000
    assert statements.count("COMMIT") == 2  # the second one removes the reason
    assert (file.counts().waiting, file.counts().rejected) == (1000, 0)
    file.close()


def test_a_full_disk_has_room_for_each_transaction_of_taking_back(disk: Path) -> None:
    file = opened(disk / "readings.outbox", 1000)
    file.append(["x" * 100_000] * 30)
    while file.counts().waiting:
        file.set_aside(taken(file), "refused")
    database(file).execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    with (disk / "ballast").open("wb") as ballast:
        ballast.truncate(shutil.disk_usage(disk).free)
    assert file.take_back([each.id for each in file.rejected()], send=True) == 30
    assert (disk / "readings.outbox-wal").stat().st_size < outbox_space.RESERVE_BYTES
    file.close()
