"""Profiles under load, and CPU seconds per million readings for each part of the code."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import cycle

from bench import wrk
from bench.load import paced, send
from bench.measures.read_back import fill, read_all
from bench.measures.singles import bodies_of
from bench.processes import cpu_seconds, family
from bench.profiles import API_STAGES, WRITER_STAGES, Profile, Recording, available
from bench.stage import Stage, batches

Stages = dict[str, tuple[str, ...]]
_FASTEST = 10_000.0


def measure_profiles(stage: Stage) -> None:
    """Profile one API process and the writer under batches, single requests and reads."""
    if available() is None:
        stage.results.notes.append("py-spy is not installed: no profiles, no CPU by stage")
        return
    _under_batches(stage)
    if wrk.installed():
        _under_singles(stage)
    _under_reads(stage)


def _under_batches(stage: Stage) -> None:
    scale = stage.scale
    vaults = stage.new_vaults(scale.lanes)
    stage.service.open_vaults(vaults)
    wire = stage.service.wire
    prepared = [list(batches(wire, vault, 0, scale.batches, scale.batch)) for vault in vaults]

    def load(seconds: float) -> None:
        lanes = [paced(cycle(lane), _FASTEST, seconds) for lane in prepared]
        send(stage.service.port, lanes, wire.status)

    _profile(stage, "batches of 1000", load, {"API": API_STAGES, "writer": WRITER_STAGES})


def _under_singles(stage: Stage) -> None:
    vaults = stage.new_vaults(8)
    stage.service.open_vaults(vaults)
    bodies = bodies_of(stage.service, vaults)

    def load(seconds: float) -> None:
        side = stage.service
        wrk.run(side.port, side.wire, bodies, seconds=round(seconds), folder=stage.folder)

    stages = {"API": API_STAGES, "writer": WRITER_STAGES}
    _profile(stage, "one reading a request", load, stages)


def _under_reads(stage: Stage) -> None:
    (vault,) = stage.new_vaults(1)
    fill(stage.service, vault, stage.scale.read, stage.scale.lanes)
    came: list[int] = []

    def load(seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            came.append(read_all(stage.service.port, vault))

    _profile(stage, "reading back", load, {"API": API_STAGES}, lambda: sum(came))


def _profile(
    stage: Stage,
    what: str,
    load: Callable[[float], None],
    parts: dict[str, Stages],
    count: Callable[[], int] | None = None,
) -> None:
    """Profile processes under a load.

    `parts` names the processes, and gives the stages of the code for each. `count` returns the
    number of readings of the load. Default: the number of readings that were stored.
    """
    service, seconds = stage.service, stage.scale.profile_seconds
    service.settle()
    stored = service.stored()
    pids = service.pids
    before = {part: cpu_seconds(pid) for part, pid in pids.items()}
    with _loading(load, seconds + 2):
        time.sleep(0.5)
        recordings = {
            part: Recording(_busiest(pids[part]), seconds, stage.folder / f"{part}.{len(what)}")
            for part in parts
        }
        profiles = {part: each.finish() for part, each in recordings.items()}
    service.settle()
    readings = (count or (lambda: service.stored() - stored))()
    used = {part: cpu_seconds(pid) - before[part] for part, pid in pids.items()}
    section = f"CPU seconds a million readings, by stage: {what}"
    for part, stages in parts.items():
        _report(stage, section, part, profiles[part], stages, used[part] / readings * 1e6)
        stage.results.profiles[f"{part}, {what}"] = profiles[part].text()
    for part, seconds_used in used.items():
        if part not in parts:
            stage.results.detail(section, f"{part}, all", f"{seconds_used / readings * 1e6:.2f} s")


def _report(
    stage: Stage, section: str, part: str, profile: Profile, stages: Stages, cost: float
) -> None:
    stage.results.detail(section, f"{part}, all", f"{cost:.2f} s")
    for name, share in profile.by_stage(stages).items():
        if share >= 0.005:
            text = f"{share * cost:.2f} s ({100 * share:.0f} %)"
            stage.results.detail(section, f"{part}: {name}", text)


@contextmanager
def _loading(load: Callable[[float], None], seconds: float) -> Iterator[None]:
    failures: list[BaseException] = []

    def run() -> None:
        try:
            load(seconds)
        except (OSError, RuntimeError) as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        thread.join()
    if failures:
        raise failures[0]


def _busiest(pid: int) -> int:
    """Return the pid of the busiest descendant of a process, or `pid` if it has no descendants."""
    before = {each: cpu_seconds(each) for each in family(pid)[1:] or [pid]}
    time.sleep(0.3)
    return max(before, key=lambda each: cpu_seconds(each) - before[each])
