"""results.json: the figures of the last recorded run, for documents to cite.

`make bench` writes the file, `make docs` copies its figures into the documents.
"""

import json
import os
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from iot_tools.cli.tables import table

from .results import Bar, Results, Row
from .scale import Scale
from .spread import Spread

IN_MICROSECONDS = " as µs"
SECTIONS = {
    "batch CPU": "CPU seconds a million readings: batches of 1000, by process",
    "single CPU": "CPU seconds a million readings: one a request, by process",
    "single stages": "CPU seconds a million readings, by stage: one reading a request",
}
"""Sections of the results by the short names that keys use (see `Recorded.text`)."""
RECORDED = Path(__file__).with_name("results.json")


def write(results: Results, scale: Scale, path: Path = RECORDED, only: Sequence[str] = ()) -> None:
    """Write the figures of a run to the file. Keep the file's tables, which other commands wrote.

    If the run made only some measures, `only` names them. The figures of the run then replace the
    figures of the same names in the file, and the other figures stay. The member `partial` of the
    file says when each of these measures was made, and how busy the machine was.
    """
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    details: dict[str, dict[str, str]] = {}
    for detail in results.details:
        details.setdefault(detail.section, {})[detail.name] = detail.value
    figures = {row.figure: _figure(row) for row in results.rows}
    written = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    content = {"written": written, "scale": scale.name, "figures": figures, "details": details}
    if only:
        run = {"written": written, "scale": scale.name, "load": f"{os.getloadavg()[1]:.1f}"}
        content = {
            "written": before["written"],
            "scale": before["scale"],
            "partial": {**before.get("partial", {}), **dict.fromkeys(only, run)},
            "figures": {**before["figures"], **figures},
            "details": {**before["details"], **details},
        }
    content["tables"] = before.get("tables", {})
    text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    path.write_text(text, encoding="utf-8")


def _figure(row: Row) -> dict[str, Any]:
    bars = {f"{bar.kind}: {bar.text}": _bar(bar) for bar in row.bars}
    return {"unit": row.unit, "value": _spread(row.ours), "bars": bars}


def _bar(bar: Bar) -> dict[str, Any]:
    return {"ratio": _spread(bar.ratio), "held": bar.held}


def _spread(values: Spread | None) -> str | None:
    return None if values is None else values.text()


@dataclass(frozen=True, slots=True)
class Recorded:
    """The content of results.json."""

    content: dict[str, Any]

    def text(self, key: str) -> str:
        """Return the text of a figure for a document: its median with its unit.

        `key` is one of these:

        - `FIGURE`: the figure of this name
        - `FIGURE vs LIMIT`: the ratio of the figure to the reference of this limit
        - `SECTION / NAME`: the detail of this name in a section

        A key that ends with ` as µs` gives the CPU seconds of a million readings as microseconds
        of one reading.

        Raises:
            KeyError: results.json has no such figure.
        """
        name = key.removesuffix(IN_MICROSECONDS)
        figure, _, bar = name.partition(" vs ")
        section, _, detail = name.rpartition(" / ")
        if section:
            text = self.content["details"][SECTIONS.get(section, section)][detail]
        elif bar:
            text = self.content["figures"][figure]["bars"][bar]["ratio"]
        else:
            found = self.content["figures"][figure]
            text = f"{found['value']} {found['unit']}"
        median = re.sub(r" \([^()]* \.\. [^()]*\)", "", text)
        first = re.match(r"[\d,.]+( [^\s(,]+)?", median)
        if first is None:
            raise ValueError(f"results.json: {key} is not a figure: {text}")
        return first[0].removesuffix(" s") + " µs" if name != key else first[0]

    def missed(self) -> list[str]:
        """Return a table of Markdown with a row for each limit that a figure missed."""
        rows = [
            (figure, f"{found['value']} {found['unit']}", bar,
             f"{kept['ratio']} x" if kept["ratio"] != found["value"] else "")
            for figure, found in self.content["figures"].items()
            for bar, kept in found["bars"].items()
            if kept["held"] is False
        ]  # fmt: skip
        head = ("figure", "result", "limit", "ratio to the reference")
        return table(head, rows) if rows else []

    def table(self, name: str) -> list[str]:
        """Return a recorded table as lines of Markdown."""
        head, *rows = self.content["tables"][name]["rows"]
        return table(head, rows)


def recorded(path: Path = RECORDED) -> Recorded:
    """Return the content of results.json."""
    return Recorded(json.loads(path.read_text(encoding="utf-8")))
