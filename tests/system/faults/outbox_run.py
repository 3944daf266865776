"""A run of devices with outboxes: they, the service and the network fail, and their disk fills up.

`python -m system.faults.outbox_run` prints what was lost and doubled, and returns 0 for nothing.
"""

import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from iot_tools.local import orphans
from iot_tools.local.child import wait_until
from system.faults import network, signals
from system.faults.account import Account, Judgement
from system.faults.fault import Scene
from system.faults.outbox_device import journal_requests, password, times_full
from system.faults.proxy import Proxy
from system.faults.readback import judge, left_over, wait_until_drained
from system.faults.service import Service
from system.faults.small_disk import SmallDisk, make_small_disk

DEVICES = 4
_DISK_BYTES = 24 * 2**20
_PAUSE_SECONDS = 0.7
_KILL_SECONDS = (0.4, 1.5)
_FULL_SECONDS = 2.0
_END_SECONDS = 90.0


class Devices:
    """The processes of all devices. A killed device is restarted at once."""

    def __init__(self, folder: Path, outboxes: Path, port: int) -> None:
        self._folder = folder
        self._outboxes = outboxes
        self._port = port
        self._over = threading.Event()
        self._processes = [self._start(number) for number in range(DEVICES)]
        self._killer = threading.Thread(target=self._kill_at_random, daemon=True)
        self.kills = 0

    def journal(self, number: int) -> Path:
        """Return the journal of a device."""
        return self._folder / f"device-{number}.journal"

    def times_full(self) -> int:
        """Return how often an outbox was full."""
        return sum(times_full(self.journal(number)) for number in range(DEVICES))

    def kill_at_random(self) -> None:
        """Kill a device from time to time, until `finish`."""
        self._killer.start()

    def finish(self) -> list[str]:
        """Let all devices flush and end. Return what went wrong."""
        self._over.set()
        self._killer.join()
        sizes = [self._journal_size(number) for number in range(DEVICES)]
        for number, process in enumerate(self._processes):
            # A process that has only begun to start would not flush on SIGTERM.
            wait_until(lambda: self._journal_size(number) > sizes[number], _END_SECONDS)  # noqa: B023
            process.terminate()
        return [
            f"device {number} ended with {process.returncode}"
            for number, process in enumerate(self._processes)
            if process.wait(_END_SECONDS) != 0
        ]

    def _journal_size(self, number: int) -> int:
        journal = self.journal(number)
        return journal.stat().st_size if journal.exists() else 0

    def _start(self, number: int) -> "subprocess.Popen[bytes]":
        outbox = self._outboxes / f"device-{number}.outbox"
        arguments = [str(number), str(self._port), str(outbox), str(self.journal(number))]
        with (self._folder / f"device-{number}.log").open("ab") as log:
            command = [sys.executable, "-m", "system.faults.outbox_device", *arguments]
            return subprocess.Popen(command, stdout=log, stderr=log)

    def _kill_at_random(self) -> None:
        chance = random.Random("kill a device")
        while not self._over.wait(chance.uniform(*_KILL_SECONDS)):
            number = chance.randrange(DEVICES)
            process = self._processes[number]
            process.kill()
            self.kills += process.wait() == -signal.SIGKILL
            self._processes[number] = self._start(number)


def run(folder: Path) -> list[str]:
    """Run, print the counts, and return what went wrong."""
    disk = make_small_disk(folder / "disk", _DISK_BYTES, "the full disk of an outbox")
    with ExitStack() as stack:
        if disk:
            stack.callback(disk.close)
        over = threading.Event()
        stack.callback(over.set)
        service = Service(folder, stack, [], forked=True)
        service.wait_ready()
        to_api = stack.enter_context(Proxy(service.port))
        devices = Devices(folder, disk.directory if disk else folder, to_api.port)
        devices.kill_at_random()
        scene = Scene(service, 2.0, random.Random("outboxes"), over)
        for act in _faults(scene, to_api, disk, devices):
            time.sleep(_PAUSE_SECONDS)
            act()
        service.wait_ready()
        problems = devices.finish()
        wait_until_drained(service)
        account = Account(
            [journal_requests(each, devices.journal(each)) for each in range(DEVICES)]
        )
        judgement = judge(service, account, [password(each) for each in range(DEVICES)])
        counts = judgement.faults() | left_over(service)
        problems += [f"{what}: {count}" for what, count in counts.items() if count]
        _show(judgement, devices.kills)
        return problems + judgement.examples


def _faults(
    scene: Scene, to_api: Proxy, disk: SmallDisk | None, devices: Devices
) -> list[Callable[[], None]]:
    acts: list[Callable[[], None]] = [
        lambda: signals.api_master(scene, signal.SIGKILL),
        lambda: _cut(scene, to_api),
        lambda: signals.redis(scene, signal.SIGKILL),
        lambda: _hold(scene, to_api),
        lambda: network.cut(scene, "redis"),
        lambda: signals.both_writers(scene, signal.SIGKILL),
    ]
    if disk:
        acts.insert(3, lambda: _fill(disk, devices))
    return acts


def _cut(scene: Scene, to_api: Proxy) -> None:
    to_api.cut(cutting=True)
    scene.last()
    to_api.cut(cutting=False)


def _hold(scene: Scene, to_api: Proxy) -> None:
    to_api.hold(holding=True)
    scene.last()
    to_api.hold(holding=False)


def _fill(disk: SmallDisk, devices: Devices) -> None:
    """Fill the disk until an outbox has noticed. Outboxes give back the space of sent readings."""

    def noticed() -> bool:
        disk.fill()
        return devices.times_full() > before

    before = devices.times_full()
    if not wait_until(noticed, _END_SECONDS, interval=0.1):
        raise TimeoutError("no outbox noticed that the disk was full")
    time.sleep(_FULL_SECONDS)
    disk.clear()


def _show(judgement: Judgement, kills: int) -> None:
    print(
        f"{kills} devices killed; readings: {judgement.sent:,} sent, {judgement.acknowledged:,} "
        f"accepted by outboxes, {judgement.stored:,} stored, "
        + ", ".join(f"{count:,} {what}" for what, count in judgement.faults().items())
    )


def main() -> int:
    """Run once. The folder with data and logs stays after a failure."""
    folder = Path(tempfile.mkdtemp(prefix="iot-outboxes-"))
    orphans.adopt()
    problems = ["the run did not end"]
    began = time.monotonic()
    try:
        problems = run(folder)
    finally:
        orphans.end_all()
        print(f"{time.monotonic() - began:.0f} s", *problems, sep="\n")
        if problems:
            print(f"logs: {folder}")
        else:
            shutil.rmtree(folder)
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
