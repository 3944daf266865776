"""The results as a plot."""

import importlib
import importlib.util
from pathlib import Path
from typing import Any

from .results import Kind, Results

_TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100)


def draw(results: Results, path: Path) -> bool:
    """Write a PNG. Return False if matplotlib is not installed."""
    if importlib.util.find_spec("matplotlib") is None:
        return False
    matplotlib = importlib.import_module("matplotlib")
    matplotlib.use("Agg")
    pyplot = importlib.import_module("matplotlib.pyplot")
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(19, 9), layout="constrained")
    _speeds(left, results)
    _reached(right, results)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return True


def _speeds(axes: Any, results: Results) -> None:
    labels: list[str] = []
    for figure, sides in results.speeds.items():
        for side, value in sides.items():
            low, high = value.median - min(value.values), max(value.values) - value.median
            axes.barh(
                len(labels), value.median, xerr=[[low], [high]],
                color="tab:blue" if side == "this service" else "lightgray", ecolor="black",
            )  # fmt: skip
            labels.append(f"{figure}: {side}")
    axes.set_xscale("log")
    axes.set_yticks(range(len(labels)), labels, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("readings/s (median; lowest and highest of the rounds)")


def _reached(axes: Any, results: Results) -> None:
    labels: list[str] = []
    for row in results.rows:
        for bar in row.bars:
            if bar.reached is None:
                continue
            color = "tab:green" if bar.held else "tab:red"
            hatch = None if bar.kind is Kind.FLOOR else "//"
            axes.barh(len(labels), bar.reached, color=color, hatch=hatch, edgecolor="white")
            labels.append(f"{row.figure}\n{bar.kind}: {bar.text}")
    axes.axvline(1, color="black")
    axes.set_xscale("log")
    axes.minorticks_off()
    low, high = axes.get_xlim()
    ticks = [tick for tick in _TICKS if low <= tick <= high]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_yticks(range(len(labels)), labels, fontsize=7)
    axes.invert_yaxis()
    axes.set_xlabel("result relative to its limit (1 = held; aims hatched)")
