"""CPU as the history grows, measured by `bench.growth`."""

import importlib
import importlib.util

from bench.stage import Stage


def measure_growth(stage: Stage) -> None:
    """Add the figures of `bench.growth`, or a note if it is missing."""
    found = importlib.util.find_spec("bench.growth")
    module = None if found is None else importlib.import_module("bench.growth")
    measure = getattr(module, "measure", None)
    if measure is None:
        stage.results.notes.append(
            "CPU as the stored history grows is not part of this run: see docs/scaling.md."
        )
        return
    measure(stage.results, quick=stage.scale.name != "full")
