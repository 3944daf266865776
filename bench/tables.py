"""Results as text for the terminal and as Markdown."""

from collections.abc import Sequence
from itertools import groupby

from iot_tools.cli.tables import aligned, table

from .results import Bar, Results, Row

_HEAD = ("figure", "result (lowest .. highest)", "limit", "ratio", "")


def figures(results: Results) -> list[Sequence[str]]:
    """Return a line for each limit, and one for each figure without limits."""
    lines: list[Sequence[str]] = []
    for row in results.rows:
        ours = "not measured" if row.ours is None else f"{row.ours.text()} {row.unit}"
        for number, bar in enumerate(row.bars):
            first = (row.figure, ours) if number == 0 else ("", "")
            lines.append((*first, f"{bar.kind}: {bar.text}", _ratio(row, bar), bar.verdict))
        if not row.bars:
            lines.append((row.figure, ours, "", "", row.remark))
    return lines


def _ratio(row: Row, bar: Bar) -> str:
    """Return the ratio as text; empty for an absolute limit, or if nothing was measured."""
    if bar.ratio is None or bar.ratio == row.ours:
        return ""
    return bar.ratio.text()


def plain(results: Results) -> str:
    """Return the results for the terminal."""
    lines = aligned([_HEAD, *figures(results)])
    for section, details in groupby(results.details, key=lambda each: each.section):
        lines += ["", section]
        lines += [f"  {line}" for line in aligned([(each.name, each.value) for each in details])]
    lines += ["", *(f"- {note}" for note in results.notes)]
    lines += [f"! not measured: {failure}" for failure in results.failures]
    missed = results.missed_floors
    lines += [f"! floor not held: {each}" for each in missed]
    if results.rows and not missed and not results.failures:
        lines.append("Every floor that was measured is held.")
    return "\n".join(lines)


def markdown(results: Results) -> str:
    """Return the results for RESULTS.md."""
    lines = table(_HEAD, figures(results))
    for section, details in groupby(results.details, key=lambda each: each.section):
        lines += ["", f"### {section}", ""]
        lines += table(("", ""), [(each.name, each.value) for each in details])
    return "\n".join(lines)
