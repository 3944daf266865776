"""Memory of an API pod while it streams a vault of millions of readings.

The vault is read twice. The first read also fills the buffers that its process keeps, up to 30 MiB.
Growth is judged in the second read, in which only a leak still grows.
"""

import time

from bench.measures.read_back import fill, read_all
from bench.processes import MIB, memory, memory_by_process, watch_memory
from bench.results import Kind, Row
from bench.spread import spread
from bench.stage import Stage


def measure_streaming(stage: Stage) -> None:
    """Fill a vault by PUT, then read it at full speed while memory is sampled."""
    (vault,) = stage.new_vaults(1)
    count, pid = stage.scale.streamed, stage.service.pids["API"]
    fill(stage.service, vault, count, stage.scale.lanes)
    before, _ = memory(pid)
    began = time.perf_counter()
    with watch_memory(pid) as first:
        received = read_all(stage.service.port, vault)
    seconds = time.perf_counter() - began
    with watch_memory(pid) as second:
        received = min(received, read_all(stage.service.port, vault))
    if received < count:
        raise RuntimeError(f"a read returned {received} of {count} readings")
    peak = max(first.peak_pss, second.peak_pss)
    results = stage.results
    row = Row(
        f"memory of an API pod that streams {count:,} readings",
        "MiB",
        spread([peak / MIB]),
    )
    row.below(Kind.FLOOR, 200, "MiB")
    results.rows.append(row)
    growth = spread([second.growth()])
    flat = Row("the same, read again: last third of the time over the first", "x", growth)
    results.rows.append(flat.below(Kind.FLOOR, 1.1, "x (flat)"))
    section = "memory while streaming"
    results.detail(
        section, "pod before it (PSS: 2 workers, their master, metrics)", f"{before / MIB:.0f} MiB"
    )
    results.detail(section, "pod, peak (PSS)", f"{peak / MIB:.0f} MiB")
    results.detail(
        section,
        "largest process, peak (RSS)",
        f"{max(first.peak_rss, second.peak_rss) / MIB:.0f} MiB",
    )
    for number, (name, size) in enumerate(memory_by_process(pid)):
        results.detail(
            section, f"process {number}, {name}, after it (PSS)", f"{size / MIB:.0f} MiB"
        )
    results.detail(section, "speed", f"{received / seconds:,.0f} readings/s")
