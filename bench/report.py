"""RESULTS.md: the results of one run, with the method, the machine and the versions."""

import time
from collections.abc import Iterable
from pathlib import Path

from .results import Results
from .scale import Scale
from .tables import markdown
from .wrk import CONNECTIONS, THREADS

RESULTS = Path(__file__).with_name("RESULTS.md")
PLOT = RESULTS.with_suffix(".png")

METHOD = """\
All sides get the same readings, in batches of the same size, over HTTP on loopback. One load
generator sends them and shares the cores with the servers. The sides take turns in each round.
Figures are medians, with the lowest and the highest round. A ratio compares the two sides of one
round, and its median counts. Batches go over {lanes} connections, each with its own vault. They are
timed from the first byte sent until all readings are durable; the table of sides says what durable
means. wrk sends the single requests ({threads} threads, {connections} connections). All vaults are
opened before, because the first use of a password costs each API process one scrypt.

CPU by process comes from /proc, with all descendants. CPU by stage divides the CPU of the process
by py-spy's samples: a sample counts for the stage whose code is nearest to the top of the stack. A
thread that waits for a core counts as running. So a call that wakes another process, and loses its
core to that process, looks expensive.
CPU step by step is that of one thread that calls the function of each step alone, without servers.

The old server is not part of this project. Its stand-in (`bench/peers/old_server.py`) does the same
work in the same order. The figures recorded of the real server on two cores are: 1,430 requests/s
with one reading each, 115,000 readings/s acknowledged and 42,000 stored in batches of 1000, 491,476
readings read back in 8.2 s, 178 bytes a reading."""


def write(
    results: Results, scale: Scale, facts: dict[str, list[tuple[str, str]]], *, plotted: bool
) -> None:
    """Write RESULTS.md."""
    began = time.strftime("%Y-%m-%d %H:%M", time.gmtime())
    method = METHOD.format(lanes=scale.lanes, threads=THREADS, connections=CONNECTIONS)
    lines = ["# Results", "", f"Written by `make bench` on {began} UTC; {scale.name} run.", ""]
    if plotted:
        lines += [f"![results relative to their limits]({PLOT.name})", ""]
    lines += [markdown(results), "", "## Notes", ""]
    lines += [
        f"- {note}"
        for note in (*results.notes, *(f"Not measured: {each}" for each in results.failures))
    ]
    lines += ["", "## Method", "", method]
    for title, pairs in facts.items():
        lines += ["", f"## {title}", "", *_pairs(pairs)]
    for name, text in results.profiles.items():
        lines += ["", f"## Profile: {name}", "", "```", text, "```"]
    RESULTS.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _pairs(pairs: Iterable[tuple[str, str]]) -> list[str]:
    return [f"- {name}: {text}" for name, text in pairs]
