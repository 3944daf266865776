"""`make faults`: run once, print the report, and print how to repeat a failed run."""

import argparse
import re
import shutil
import sys
import tempfile
import time
from pathlib import Path

from iot_tools.cli.shutdown_signals import ShutdownRequested, ShutdownSignals
from iot_tools.local import orphans
from system.faults.kinds import KINDS
from system.faults.plan import EVERY_SECONDS
from system.faults.report import show
from system.faults.run import Options, Run


def main() -> int:
    """Return 0 if no reading was lost, doubled, altered, out of order or late."""
    options = _options()
    again = f"make faults SEED={options.seed} FAULTS={options.faults} READINGS={options.readings}"
    again += "" if options.repeats else " REPEATS=0"
    again += "" if options.every == EVERY_SECONDS else f" EVERY={options.every:g}"
    again += f" ONLY='{options.only}'" if options.only else ""
    print(again, flush=True)
    folder = Path(tempfile.mkdtemp(prefix="iot-faults-"))
    orphans.adopt()
    began = time.monotonic()
    failed = True
    try:
        with ShutdownSignals(interrupt=True):
            outcome = Run(options, folder).run()
        show(outcome)
        problems = outcome.problems()
        failed = bool(problems)
        print("\n".join(f"FAILED  {each}" for each in problems))
    except ShutdownRequested as request:
        sys.exit(f"ended by {request}")
    finally:
        orphans.end_all()
        print(f"seed {options.seed}, {time.monotonic() - began:.0f} s: ", end="")
        if failed:
            print(f"FAILED\nlogs: {folder}\nagain: {again}")
        else:
            print("nothing lost, nothing doubled")
            shutil.rmtree(folder)
    return int(failed)


def _options() -> Options:
    parser = argparse.ArgumentParser(prog="python -m system.faults", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--faults", type=int, default=300)
    parser.add_argument("--readings", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, choices=(0, 1), default=1)
    parser.add_argument("--every", type=float, default=EVERY_SECONDS)
    parser.add_argument("--only", default="")
    parser.add_argument("--forked", action="store_true")
    given = parser.parse_args()
    if not any(re.search(given.only, kind.name) for kind in KINDS):
        parser.error(f"no kind of fault is called {given.only!r}")
    return Options(
        given.seed,
        given.faults,
        given.readings,
        bool(given.repeats),
        given.every,
        given.only,
        given.forked,
    )


if __name__ == "__main__":
    sys.exit(main())
