"""A run: load on the service, the faults of a plan, and the comparison of all readings."""

import random
import re
import threading
import time
from collections import defaultdict
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from system.faults.account import Account
from system.faults.devices import Device, Pace
from system.faults.fault import Scene
from system.faults.kinds import KINDS, WRONG_CLOCKS
from system.faults.plan import EVERY_SECONDS, Planned, make_plan
from system.faults.readback import (
    NotDrainedError,
    forget_vaults,
    judge,
    left_over,
    wait_until_drained,
)
from system.faults.recovery import Done, Seen, recoveries
from system.faults.report import Outcome
from system.faults.service import Service, can_shift_clocks
from system.faults.small_disk import DISK_FULL, make_small_disks
from system.faults.watch import Watch

DEVICES = 24
STEADY_DEVICES = 4
"""Number of devices that send small requests all the time, so that recovery shows immediately."""
PASSWORDS = 40
FIRST_PASSWORDS = 12
AFTER_SECONDS = 3.0
"""How long the load continues after the last fault, to measure the recovery."""
SPARE_SECONDS = 240.0
"""How much longer than planned the run may take, in seconds."""
PUT_BACK_SECONDS = 10.0
"""Time after which a vault that Postgres lost is used and restored, in seconds."""


@dataclass(frozen=True, slots=True)
class Options:
    """Options of a run. The seed determines the plan and the readings."""

    seed: int
    faults: int
    readings: int
    repeats: bool = False
    """Whether every second device repeats unacknowledged requests with an `Idempotency-Key`."""
    every: float = EVERY_SECONDS
    """Mean time between the starts of two faults, in seconds."""
    only: str = ""
    """A regular expression that selects kinds of faults by name."""
    forked: bool = False
    """Whether API and writers are forked from fork servers, which takes less CPU time."""


class Run:
    """A run with its data and logs in `folder`."""

    def __init__(self, options: Options, folder: Path) -> None:
        self._options = options
        self._folder = folder
        self._disks = make_small_disks(folder)
        left_out = set(() if self._disks else [DISK_FULL])
        if not can_shift_clocks():
            print("skipped: wrong clocks need a C compiler (cc)")
            left_out.update(WRONG_CLOCKS)
        kinds = [
            kind
            for kind in KINDS
            if re.search(options.only, kind.name) and kind.name not in left_out
        ]
        self._plan = make_plan(options.seed, options.faults, kinds, every=options.every)
        self._planned_seconds = max((each.begins for each in self._plan), default=0.0) + 5.0
        self._all_passwords = [f"run-{options.seed}-{number}" for number in range(PASSWORDS)]
        self._over = threading.Event()
        self._targets: dict[str, threading.Lock] = defaultdict(threading.Lock)
        self._done: list[Done] = []
        self._failures: list[str] = []
        self._began = 0.0

    def run(self) -> Outcome:
        """Run everything, and leave no process behind, even after an error."""
        with ExitStack() as stack:
            for disk in self._disks:
                stack.callback(disk.close)
            stack.callback(self._over.set)
            forked = self._options.forked
            service = Service(self._folder, stack, self._disks, metrics=True, forked=forked)
            service.wait_ready()
            watch = Watch(service)
            stack.callback(watch.stop)
            self._began = time.monotonic()
            pace = Pace(self._options.readings / self._planned_seconds)
            devices = self._under_load(service, pace)
            devices.append(self._last_device(service, pace))
            drained_seconds = self._drained(service)
            watch.look_again()
            watch.stop()
            forget_vaults(service)
            requests = [device.requests for device in devices]
            every = [each for of_device in requests for each in of_device]
            fired = sorted(service.alerts.fired) if service.alerts is not None else []
            if service.alerts is not None:
                still = service.alerts.still_firing()
                self._failures += [f"the alert {alert} does not end" for alert in still]
            acknowledged = sorted(each.answered_at for each in every if each.acknowledged)
            seen = Seen(acknowledged, watch.commits, watch.fronts)
            return Outcome(
                planned=len(self._plan),
                recoveries=recoveries(sorted(self._done, key=lambda each: each.number), seen),
                requests=every,
                judgement=judge(service, Account(requests, self._held(watch)), self._all_passwords),
                left_over=left_over(service),
                drained_seconds=drained_seconds,
                failures=self._failures,
                alerts=fired,
            )

    def _under_load(self, service: Service, pace: Pace) -> list[Device]:
        """Run the plan under load, until enough readings are acknowledged. Return the devices."""
        devices = [
            self._device(number, service, pace, repeats=self._options.repeats and number % 2 == 1)
            for number in range(DEVICES)
        ]
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

    def _last_device(self, service: Service, pace: Pace) -> Device:
        """Send a reading under every password, which restores vaults, and return the device."""
        service.wait_ready()
        device = self._device(DEVICES, service, pace, repeats=True)
        device.send_to_each()
        return device

    def _device(self, number: int, service: Service, pace: Pace, *, repeats: bool) -> Device:
        return Device(
            number,
            service.port,
            pace,
            self._passwords,
            seed=f"device {self._options.seed}",
            steady=number < STEADY_DEVICES,
            repeats=repeats,
        )

    def _passwords(self) -> list[str]:
        """Return the passwords so far. New ones create vaults during faults."""
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
        """Make Redis sync before it answers in the second half of the run."""
        with self._targets["redis"]:
            service.redis.wait_ready()
            service.redis_pair.sync("always")

    def _strike(self, service: Service, planned: Planned) -> None:
        chance = random.Random(f"fault {self._options.seed} {planned.number}")
        scene = Scene(service, planned.seconds, chance, self._over, alert=planned.kind.alert)
        with ExitStack() as held:
            for target in planned.kind.targets:
                held.enter_context(self._targets[target])
            try:
                planned.kind.prepare(scene)
                began = time.monotonic()
                planned.kind.act(scene)
            except Exception as error:  # noqa: BLE001 - the run reports every error
                what = f"fault {planned.number} ({planned.kind.name})"
                self._failures.append(f"{what} could not be done: {error!r}")
                return
            self._done.append(Done(planned.number, planned.kind, began, time.monotonic()))

    def _held(self, watch: Watch) -> list[tuple[float, float]]:
        """Return the time spans of acknowledgements whose readings may have been held."""
        return watch.spans_held() + [
            (watch.oldest(done.began, done.ended), done.ended + PUT_BACK_SECONDS)
            for done in self._done
            if done.kind.holds
        ]

    def _drained(self, service: Service) -> float:
        service.wait_ready()
        try:
            return wait_until_drained(service)
        except NotDrainedError as error:
            self._failures.append(str(error))
            return float("inf")
