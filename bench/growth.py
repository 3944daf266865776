"""`python -m bench.growth`: measure what ingest and reads cost as the stored history grows.

Services with histories of different sizes run side by side and get the same load in turn, so that
other work on the machine affects all of them alike. CPU seconds are those of all processes of a
service. The statistics of Postgres say how many pages (8 KiB) a read finds in memory, and how many
it reads from disk. Autovacuum is off during the measurement.
"""

import argparse
import sys
from collections.abc import Sequence
from contextlib import ExitStack

from .growth_costs import Grown, grow
from .growth_history import Size
from .results import Kind, Results, Row
from .spread import Spread, spread
from .stage import Stage
from .tables import plain

READINGS = (1_000_000, 10_000_000, 100_000_000)
VAULTS = (1, 1000, 100_000)
SHARDS = (1, 2, 4, 8)
FEW, MANY = READINGS[0], READINGS[-1]
USUAL_VAULTS, USUAL_SHARDS = 1000, 8
FULL, BRIEF, QUICK = (5, 50, 100), (5, 40, 32), (2, 15, 40)
"""Three numbers each: rounds, batches that each connection sends in a round, and requests for each
kind of read in a round. BRIEF is for `make bench`, which judges ingest only.
"""
FLOOR, AIM = 1.15, 1.05


def measure_growth(stage: Stage) -> None:
    """Compare the cost of ingest with a large history and with a small one, for `make bench`."""
    full = stage.scale.name == "full"
    large = MANY if full else FEW * 10
    found = side_by_side(
        [Size(FEW, USUAL_VAULTS), Size(large, USUAL_VAULTS)],
        [USUAL_SHARDS] * 2,
        BRIEF if full else QUICK,
    )
    report(stage.results, found)


def side_by_side(
    sizes: Sequence[Size], shards: Sequence[int], effort: tuple[int, int, int]
) -> list[Grown]:
    """Start a service for each of `sizes`, and measure each service while the others are idle.

    `shards` has the number of shards of each service. `effort` has three numbers, as `FULL` has.
    """
    rounds, batches, requests = effort
    with ExitStack() as stack:
        found = [grow(stack, *each) for each in zip(sizes, shards, strict=True)]
        for number in range(rounds):
            turn = found[::-1] if number % 2 else found  # in alternating order
            for each in turn:
                each.measure_ingest(batches)
            for each in turn:
                each.measure_reads(requests)
        for each in found:
            each.count_pages()
            each.measure_redis()
    return found


def report(results: Results, found: Sequence[Grown]) -> None:
    """Add all details to the results, and a row that compares the CPU of ingest of the last service
    with that of the first.
    """
    least, most = found[0], found[-1]
    times = most.size.readings // least.size.readings
    row = Row(f"CPU seconds a million readings, history {times}x", "s", _total(most))
    row.at_most(Kind.FLOOR, FLOOR, f"those with {least.size}", _total(least))
    row.at_most(Kind.AIM, AIM, "the same (flat)", _total(least))
    results.rows.append(row)
    for each in found:
        name = str(each.size)
        parts = ", ".join(
            f"{part} {spread(cost[part] for cost in each.ingest).median:.2f}"
            for part in each.ingest[0]
        )
        section = "CPU seconds a million readings as the history grows"
        results.detail(section, name, f"{_total(each).text()} s ({parts})")
    for kind in least.reads:
        section = f"{kind}: CPU milliseconds a request; pages of Postgres found and read"
        for each in found:
            cost = Spread(tuple(each.reads[kind]))
            text = f"{cost.text()} ms; {each.hit[kind]:.0f} + {each.read[kind]:.0f}"
            results.detail(section, str(each.size), text)
    for each in found:
        text = f"{each.redis_bytes / 2**20:.1f} MiB in {each.redis_keys} keys"
        results.detail("Redis after all of it", str(each.size), text)


def report_shards(results: Results, found: Sequence[Grown], shards: Sequence[int]) -> None:
    """Add the cost of ingest by number of shards to the results."""
    for number, each in zip(shards, found, strict=True):
        section = "CPU seconds a million readings by shards"
        results.detail(section, f"{number}", f"{_total(each).text()} s")


def _total(grown: Grown) -> Spread:
    return spread(sum(cost.values()) for cost in grown.ingest)


def _numbers(text: str) -> list[int]:
    numbers = [int(part) for part in text.split(",")]
    if not numbers or min(numbers) < 1:
        raise argparse.ArgumentTypeError("must be whole numbers from 1, separated by commas")
    return numbers


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.growth", description=__doc__)
    parser.add_argument("--readings", type=_numbers, default=list(READINGS), metavar="N,N,...")
    parser.add_argument("--vaults", type=_numbers, default=list(VAULTS), metavar="N,N,...")
    parser.add_argument("--shards", type=_numbers, default=list(SHARDS), metavar="N,N,...")
    parser.add_argument("--quick", action="store_true", help="few readings, not to be cited")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print a table for each number of vaults.

    Return 1 if a figure misses a limit of the kind `Kind.FLOOR`, else 0.
    """
    given = _parser().parse_args(arguments)
    held, effort = True, QUICK if given.quick else FULL
    for vaults in given.vaults:
        results = Results()
        sizes = [Size(readings, vaults) for readings in given.readings]
        print(f"measuring: {vaults:,} vaults ...", file=sys.stderr, flush=True)
        report(results, side_by_side(sizes, [USUAL_SHARDS] * len(sizes), effort))
        print(plain(results), end="\n\n", flush=True)
        held = held and not results.missed_floors
    if len(given.shards) > 1:
        print("measuring: shards ...", file=sys.stderr, flush=True)
        results = Results()
        sizes = [Size(min(given.readings), USUAL_VAULTS)] * len(given.shards)
        found = side_by_side(sizes, given.shards, effort)
        report_shards(results, found, given.shards)
        print(plain(results), flush=True)
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
