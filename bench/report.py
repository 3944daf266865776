"""RESULTS.md: the results of one run with all that is needed to judge them."""

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
All sides take the same readings, in batches of the same size, over HTTP on loopback from one load
generator that shares the cores with them. Rounds alternate: ours, each peer, ours, ... Figures are
medians, with the lowest and the highest round; a ratio is that of the two sides of one round, and
its median is what counts. Batches go over {lanes} connections, each with a vault of its own, from
the first byte sent until everything is durable as the table of sides tells. Single requests are
wrk's ({threads} threads, {connections} connections). Vaults are opened beforehand: a password costs
an API process one scrypt, and then none for ten minutes.

CPU by process is what /proc counts, with all below it. CPU by stage is that of the process, shared
out by py-spy's samples: each counts for the stage whose code is nearest to the top of its stack.
A thread that waits for a core counts as running, so a call that wakes another process shows large.
Step by step, it is the CPU of one thread that calls each step's function alone, without servers.

The old server is no part of this project. Its stand-in (`bench/peers/old_server.py`) does the same
work in the same order; beside it stands what was recorded of the real one on two cores: 1,430
requests/s with one reading each, 115,000 readings/s acknowledged and 42,000 stored in batches of
1000, 491,476 readings read back in 8.2 s, 178 bytes a reading."""


def write(
    results: Results, scale: Scale, facts: dict[str, list[tuple[str, str]]], *, plotted: bool
) -> None:
    """Write RESULTS.md."""
    began = time.strftime("%Y-%m-%d %H:%M", time.gmtime())
    method = METHOD.format(lanes=scale.lanes, threads=THREADS, connections=CONNECTIONS)
    lines = ["# Results", "", f"Written by `make bench` on {began} UTC; {scale.name} run.", ""]
    if plotted:
        lines += [f"![what was reached]({PLOT.name})", ""]
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
