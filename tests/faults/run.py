"""A run: the service under load, the plan carried out, everything compared."""

import random
import threading
import time
from collections import defaultdict
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from faults.clocks import CLOCK, can_shift_clocks
from faults.devices import Device, Pace
from faults.fault import Scene
from faults.kinds import KINDS
from faults.plan import Planned, make_plan
from faults.readback import NotDrainedError, judge, left_over, wait_until_drained
from faults.recovery import Done, Seen, recoveries
from faults.report import Outcome
from faults.service import Service
from faults.small_disk import DISK_FULL, make_small_disk
from faults.watch import Watch

DEVICES = 24
STEADY_DEVICES = 4
"""Those that send a little all the time, so that it shows at once when it works again."""
PASSWORDS = 40
FIRST_PASSWORDS = 12
AFTER_SECONDS = 3.0
"""How long the load goes on after the last fault: recovery shows by what is sent."""
SPARE_SECONDS = 240.0
"""How much longer than planned the faults and the load may take."""


@dataclass(frozen=True, slots=True)
class Options:
    """What a run is asked for; the seed makes the plan and what the devices send."""

    seed: int
    faults: int
    readings: int
    repeats: bool = False
    """Every second device repeats what was not acknowledged, under an `Idempotency-Key`."""
    only: str = ""
    """Just the kinds of faults whose name holds this."""


class Run:
    """One run, its data and logs in `folder`."""

    def __init__(self, options: Options, folder: Path) -> None:
        self._options = options
        self._folder = folder
        self._disk = make_small_disk(folder / "disk")
        kinds = [
            kind
            for kind in KINDS
            if options.only in kind.name
            and (self._disk or kind.name != DISK_FULL)
            and (can_shift_clocks() or not kind.name.endswith(CLOCK))
        ]
        self._plan = make_plan(options.seed, options.faults, kinds)
        self._planned_seconds = max((each.begins for each in self._plan), default=0.0) + 5.0
        self._all_passwords = [f"run-{options.seed}-{number}" for number in range(PASSWORDS)]
        self._over = threading.Event()
        self._targets: dict[str, threading.Lock] = defaultdict(threading.Lock)
        self._done: list[Done] = []
        self._failures: list[str] = []
        self._began = 0.0

    def run(self) -> Outcome:
        """All of it. No process is left, whatever happens."""
        with ExitStack() as stack:
            if self._disk is not None:
                stack.callback(self._disk.close)
            stack.callback(self._over.set)
            service = Service(self._folder, stack, self._disk)
            service.wait_ready()
            watch = Watch(service)
            stack.callback(watch.stop)
            self._began = time.monotonic()
            devices = self._under_load(service)
            drained_seconds = self._drained(service)
            watch.look_again()
            watch.stop()
            requests = [device.requests for device in devices]
            every = [each for of_device in requests for each in of_device]
            acknowledged = sorted(each.answered_at for each in every if each.acknowledged)
            seen = Seen(acknowledged, watch.commits, watch.fronts)
            return Outcome(
                planned=len(self._plan),
                recoveries=recoveries(sorted(self._done, key=lambda each: each.number), seen),
                requests=every,
                judgement=judge(service, requests, self._all_passwords),
                left_over=left_over(service),
                drained_seconds=drained_seconds,
                failures=self._failures,
            )

    def _under_load(self, service: Service) -> list[Device]:
        """The devices send while the plan is carried out, and until enough is acknowledged."""
        pace = Pace(self._options.readings / self._planned_seconds)
        devices = [self._device(number, service, pace) for number in range(DEVICES)]
        for device in devices:
            device.start()
        deadline = self._began + self._planned_seconds + SPARE_SECONDS
        threads = self._carry_out(service, deadline)
        for thread in threads:
            thread.join(max(0.1, deadline - time.monotonic()))
        self._over.set()
        time.sleep(AFTER_SECONDS)
        while pace.acknowledged < self._options.readings and time.monotonic() < deadline:
            time.sleep(0.1)
        for device in devices:
            device.stop()
        for device in devices:
            device.join(60)
        if pace.acknowledged < self._options.readings:
            self._failures.append(f"only {pace.acknowledged:,} readings were acknowledged in time")
        return devices

    def _device(self, number: int, service: Service, pace: Pace) -> Device:
        return Device(
            number,
            service.port,
            pace,
            self._passwords,
            seed=f"device {self._options.seed}",
            steady=number < STEADY_DEVICES,
            repeats=self._options.repeats and number % 2 == 1,
        )

    def _passwords(self) -> list[str]:
        """Those in use by now: new ones keep coming, so that vaults are made amid faults."""
        part = (time.monotonic() - self._began) / self._planned_seconds
        known = FIRST_PASSWORDS + int(part * (PASSWORDS - FIRST_PASSWORDS + 1))
        return self._all_passwords[:known]

    def _carry_out(self, service: Service, deadline: float) -> list[threading.Thread]:
        threads = []
        for planned in self._plan:
            if planned.number == len(self._plan) // 2:
                self._sync_always(service)
            wait = self._began + planned.begins - time.monotonic()
            if wait > 0:
                time.sleep(wait)
            if time.monotonic() > deadline:
                self._failures.append("the faults took too long")
                break
            thread = threading.Thread(target=self._strike, args=(service, planned), daemon=True)
            thread.start()
            threads.append(thread)
        return threads

    def _sync_always(self, service: Service) -> None:
        """The second half of a run has Redis sync before it answers."""
        with self._targets["redis"]:
            service.redis.wait_ready()
            service.sync_redis("always")

    def _strike(self, service: Service, planned: Planned) -> None:
        chance = random.Random(f"fault {self._options.seed} {planned.number}")
        with self._targets[planned.kind.target]:
            began = time.monotonic()
            try:
                planned.kind.act(Scene(service, planned.seconds, chance, self._over))
            except Exception as error:  # noqa: BLE001 - whatever it is, the run is to tell of it
                what = f"fault {planned.number} ({planned.kind.name})"
                self._failures.append(f"{what} could not be done: {error!r}")
                return
            self._done.append(Done(planned.number, planned.kind, began, time.monotonic()))

    def _drained(self, service: Service) -> float:
        service.wait_ready()
        try:
            return wait_until_drained(service)
        except NotDrainedError as error:
            self._failures.append(str(error))
            return float("inf")
