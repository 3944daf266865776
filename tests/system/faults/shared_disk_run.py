"""Several outboxes fill a small disk together, and are emptied: none may be stuck.

In one round, all readings are set aside before they are removed.

`python -m system.faults.shared_disk_run` prints what was wrong, and returns 0 for nothing.
"""

import shutil
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from iot_sensor_client import OutboxError, OutboxFullError
from iot_sensor_client.outbox_file import OutboxFile
from system.faults.small_disk import make_small_disk

_OUTBOXES = 6
_DISK_BYTES = 24 * 2**20
_MAX_BYTES = 2**28
_BATCH_SIZE = 200
_ROUNDS = 3
_REFUSALS = 5
_ATTEMPTS = 3
_SIZES = ((200, 400), (100, 10_000), (900_000, 1))
"""Bytes of a reading, and readings of a call."""


def run(folder: Path, size: int, count: int) -> list[str]:
    """Fill and empty the outboxes several times. Return what went wrong."""
    rows = ["x" * size] * count
    files = [OutboxFile(folder / str(each), _MAX_BYTES, _BATCH_SIZE) for each in range(_OUTBOXES)]
    problems = []
    accepted = []
    for number in range(_ROUNDS):
        with ThreadPoolExecutor(_OUTBOXES) as threads:
            list(threads.map(lambda each: _fill(each, rows), files))
        accepted.append(sum(each.counts().waiting for each in files))
        with ThreadPoolExecutor(_OUTBOXES) as threads:
            emptied = threads.map(lambda each: _empty(each, reject=number == 1), files)  # noqa: B023 -- called here
            problems += [each for each in emptied if each]
    for each in files:
        each.close()
    print(f"calls with {count:,} readings of {size:,} bytes: accepted {accepted}")
    if min(accepted) < 0.8 * max(accepted):
        problems.append(f"emptied outboxes took fewer readings: {accepted}")
    return problems


def _fill(file: OutboxFile, rows: list[str]) -> None:
    refusals = 0
    while refusals < _REFUSALS:
        try:
            file.append(rows)
        except OutboxFullError:
            refusals += 1


def _empty(file: OutboxFile, *, reject: bool) -> str | None:
    """Remove all readings. Return why a batch could not be removed in several attempts.

    With `reject`, set all readings aside, and then discard them.
    """
    attempts = 0
    while file.counts().waiting:
        try:
            batch = file.take()
            if batch is not None and reject:
                file.set_aside(batch, f"refused for reason {batch.id % 2}")
            elif batch is not None:
                file.remove(batch)
            attempts = 0
        except OutboxError as error:
            attempts += 1
            if attempts == _ATTEMPTS:
                return f"{file.counts()}: {error}"
    file.take_back([each.id for each in file.rejected()], send=False)
    return None


def main() -> int:
    """Run with each size."""
    problems: list[str] = []
    with tempfile.TemporaryDirectory(prefix="iot-outboxes-") as folder:
        disk = make_small_disk(Path(folder) / "disk", _DISK_BYTES, "the full disk of outboxes")
        if disk is None:
            return 0
        for size, count in _SIZES:
            outboxes = disk.directory / str(size)
            outboxes.mkdir()
            problems += run(outboxes, size, count)
            shutil.rmtree(outboxes)
        disk.close()
    print(*problems, sep="\n")
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
