"""CPU and memory of processes and their descendants, from /proc (Linux)."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

_TICKS = os.sysconf("SC_CLK_TCK")
MIB = 2**20
_SAMPLE_SECONDS = 0.1

AnySample = TypeVar("AnySample")


def family(pid: int) -> list[int]:
    """Return a process and its living descendants."""
    found = [pid]
    for process in found:  # the loop also visits the processes that it appends
        found += _children(process)
    return found


def _children(pid: int) -> list[int]:
    """Return the children that the process's main thread started; none if the process has ended."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")
    except OSError:
        return []
    return list(map(int, children.split()))


def cpu_seconds(pid: int) -> float:
    """Return the CPU seconds of a process and all its descendants, ended ones included."""
    ticks = 0
    for each in family(pid):
        try:
            stat = Path(f"/proc/{each}/stat").read_text(encoding="utf-8")
        except OSError:
            continue
        ticks += sum(map(int, stat.rpartition(")")[2].split()[11:15]))
    return ticks / _TICKS


def memory(pid: int) -> tuple[int, int]:
    """Return two sizes of a process and its descendants, in bytes.

    The first is the PSS of all these processes together, the second the largest RSS of one of them.
    """
    total, largest = 0, 0
    for each in family(pid):
        try:
            rollup = Path(f"/proc/{each}/smaps_rollup").read_text(encoding="utf-8")
        except OSError:
            continue
        sizes = {
            words[0]: int(words[1]) * 1024
            for words in map(str.split, rollup.splitlines()[1:])
            if len(words) == 3
        }
        total += sizes["Pss:"]
        largest = max(largest, sizes["Rss:"])
    return total, largest


def memory_by_process(pid: int) -> list[tuple[str, int]]:
    """Return (module, bytes of PSS) for a process and for each of its descendants."""
    found = []
    for each in family(pid):
        try:
            words = Path(f"/proc/{each}/cmdline").read_text(encoding="utf-8").split("\0")
        except OSError:
            continue
        name = words[words.index("-m") + 1] if "-m" in words else words[0]
        own = memory(each)[0] - sum(memory(child)[0] for child in _children(each))
        found.append((name, own))
    return found


@dataclass(slots=True)
class MemoryWatch:
    """Samples of the memory of a process and its descendants."""

    samples: list[tuple[int, int]]

    @property
    def peak_pss(self) -> int:
        """Highest PSS of all processes together."""
        return max(pss for pss, _ in self.samples)

    @property
    def peak_rss(self) -> int:
        """Highest RSS of one process."""
        return max(rss for _, rss in self.samples)

    def growth(self) -> float:
        """Return the mean PSS of the last third of the samples, divided by that of the first third.

        1: PSS did not grow.
        """
        third = max(1, len(self.samples) // 3)
        first = sum(pss for pss, _ in self.samples[:third])
        return sum(pss for pss, _ in self.samples[-third:]) / first


@contextmanager
def sampled(sample: Callable[[], AnySample], every: float) -> Iterator[list[AnySample]]:
    """Call `sample` every `every` seconds while the block runs, at least once.

    Yield the list of the results, which grows meanwhile.
    """
    samples: list[AnySample] = []
    over = threading.Event()

    def run() -> None:
        while True:
            samples.append(sample())
            if over.wait(every):
                return

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield samples
    finally:
        over.set()
        thread.join()


@contextmanager
def watch_memory(pid: int) -> Iterator[MemoryWatch]:
    """Sample memory while the block runs, at least once."""
    with sampled(lambda: memory(pid), _SAMPLE_SECONDS) as samples:
        yield MemoryWatch(samples)


class CpuWatch:
    """CPU seconds of several processes since the object was created."""

    def __init__(self, roots: dict[str, int]) -> None:
        self._roots = roots
        self._before = self._now()
        self._began = time.perf_counter()

    def used(self) -> dict[str, float]:
        """Return the CPU seconds used so far, by the name of the process."""
        now = self._now()
        return {name: now[name] - self._before[name] for name in now}

    def _now(self) -> dict[str, float]:
        return {name: cpu_seconds(pid) for name, pid in self._roots.items()}
