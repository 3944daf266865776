"""`python -m bench`: measure the service, and the programs that it is compared with, in one run."""

import argparse
import sys
import time
from collections.abc import Callable, Sequence

from . import recorded, report
from .growth import measure_growth
from .limits import within
from .machine import durability, machine, versions
from .measures.batches import measure_batches
from .measures.constants import measure_constants
from .measures.flood import measure_flood
from .measures.freshness import measure_freshness
from .measures.profiling import measure_profiles
from .measures.read_back import measure_read_back
from .measures.shards import measure_shards
from .measures.singles import measure_singles
from .measures.starts import measure_starts
from .measures.steps import measure_steps
from .measures.streaming import measure_streaming
from .plot import draw
from .scale import FULL, QUICK
from .stage import Stage, staged
from .tables import plain

Measure = Callable[[Stage], None]

MEASURES: dict[str, tuple[Measure, float]] = {
    "batches": (measure_batches, 240),
    "read": (measure_read_back, 240),
    "singles": (measure_singles, 240),
    "memory": (measure_streaming, 180),
    "freshness": (measure_freshness, 120),
    "flood": (measure_flood, 480),
    "shards": (measure_shards, 180),
    "growth": (measure_growth, 180),
    "constants": (measure_constants, 240),
    "start": (measure_starts, 240),
    "steps": (measure_steps, 60),
    "profile": (measure_profiles, 120),
}
"""By name, in the order of a run: the measure, and its time limit in seconds."""
BESIDE_PEERS = ("batches", "read", "singles")
NOT_IN_QUICK = ("constants", "profile")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print. Return 1 if a measure failed."""
    given = _parser().parse_args(arguments)
    scale = QUICK if given.quick else FULL
    names = given.only or [name for name in MEASURES if not (given.quick and name in NOT_IN_QUICK)]
    facts = {"Machine": machine()}
    began = time.monotonic()
    with staged(scale) as stage:
        facts["Versions"], facts["Sides"] = versions(stage), durability(stage)
        for name in sorted(names, key=list(MEASURES).index):
            if name not in BESIDE_PEERS:
                stage.stop_peers()  # peers compact their data for minutes
            run(stage, name, *MEASURES[name])
        results = stage.results
    if given.quick:
        results.notes.append(f"A quick run: {scale.rounds} rounds, few readings. Not to be cited.")
    results.notes.append(f"The run took {time.monotonic() - began:.0f} s.")
    print(plain(results))
    if given.only:
        for name, text in results.profiles.items():
            print(f"\n{name}\n{text}")
    if given.write and given.only:
        if results.failures:
            print("Nothing is written: a measure failed.", file=sys.stderr)
            return 1
        recorded.write(results, scale, only=given.only)
        print(f"Written: {recorded.RECORDED.name}, the other figures stay. Now run `make docs`.")
    elif given.write or not (given.quick or given.only):
        plotted = draw(results, report.PLOT)
        report.write(results, scale, facts, plotted=plotted)
        recorded.write(results, scale)
        print(f"Written: {report.RESULTS} and {recorded.RECORDED.name}. Now run `make docs`.")
    return 1 if results.failures else 0


def run(stage: Stage, name: str, measure: Measure, seconds: float) -> None:
    """Run one measure. A failure is added to the results, and the other measures continue."""
    print(f"measuring: {name} ...", file=sys.stderr, flush=True)
    began = time.monotonic()
    try:
        with within(seconds, name):
            measure(stage)
    except Exception as error:  # noqa: BLE001 - every failure is reported
        stage.results.failures.append(f"{name}: {type(error).__name__}: {error}")
        print(f"  failed: {error}", file=sys.stderr)
    print(f"  {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)


def _names(text: str) -> list[str]:
    names = text.split(",")
    unknown = [name for name in names if name not in MEASURES]
    if unknown:
        raise argparse.ArgumentTypeError(
            f"unknown measures: {', '.join(unknown)}; choose from {', '.join(MEASURES)}"
        )
    return names


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="at most three minutes; writes no RESULTS.md"
    )
    parser.add_argument(
        "--write",
        action="store_true",
        help="write RESULTS.md even if --quick is given; with --only, results.json alone",
    )
    parser.add_argument(
        "--only", type=_names, metavar="NAME,...", help=f"any of: {', '.join(MEASURES)}"
    )  # fmt: skip
    return parser


if __name__ == "__main__":
    sys.exit(main())
