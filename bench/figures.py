"""`python -m bench.figures`: copies figures of results.json into the documents.

A figure stands between two comments, `<!-- bench: KEY -->figure<!-- / -->`, and a table between
`<!-- bench table: NAME -->` and `<!-- end of bench table -->`. `Recorded.text` explains the keys.
`<!-- bench missed -->` begins the table of the limits that figures of results.json missed.
`<!-- cost: KEY -->figure<!-- / -->` is a figure of the capacity model; `cost_text` explains its
keys.
"""

import re
from pathlib import Path

from iot_models.settings import load_one
from iot_tools.capacity.costs import Costs, described

from .recorded import Recorded, recorded

ROOT = Path(__file__).parents[1]
DOCUMENTS = (
    "README.md", "docs/architecture.md", "docs/limits.md", "docs/scaling.md",
    "docs/security.md", "docs/sizing.md",
    "docs/adr/0017-vault-cryptography.md", "docs/adr/0018-columnar-segments.md",
    "bench/README.md",
)  # fmt: skip
FIGURE = re.compile(r"(<!-- bench: (.+?) -->)(.*?)(<!-- / -->)", re.DOTALL)
COST = re.compile(r"(<!-- cost: (.+?) -->)(.*?)(<!-- / -->)", re.DOTALL)
TABLE = re.compile(r"(<!-- bench table: (.+?) -->\n)(.*?)(<!-- end of bench table -->)", re.DOTALL)
MISSED = re.compile(r"(<!-- bench missed -->\n)(.*?)(<!-- end of bench missed -->)", re.DOTALL)


def filled(text: str, results: Recorded) -> str:
    """Return a document with the recorded figures.

    Raises:
        KeyError: results.json lacks a figure.
    """
    text = FIGURE.sub(lambda found: found[1] + results.text(found[2]) + found[4], text)
    text = COST.sub(lambda found: found[1] + cost_text(found[2]) + found[4], text)

    def table(found: "re.Match[str]") -> str:
        return found[1] + "\n".join(results.table(found[2])) + "\n" + found[4]

    missed = "".join(f"{line}\n" for line in results.missed() or ["None."])
    text = MISSED.sub(lambda found: found[1] + missed + found[3], text)
    return TABLE.sub(table, text)


def cost_text(key: str) -> str:
    """Return the text of a figure of the capacity model.

    `key` is the name of a cost, or `outage RATE BATCH`. The figure of `outage` is the number of
    minutes after which the default backlog is full, if no reading is stored and RATE readings a
    second arrive in requests of BATCH readings.
    """
    name, *numbers = key.split()
    if name == "outage":
        rate, batch = map(int, numbers)
        costs = Costs()
        reading = costs.queued_reading + costs.queued_entry / batch
        return f"{load_one('backlog_max_bytes', {}) / (rate * reading) / 60:.0f} minutes"
    (found,) = [(value, unit) for each, value, unit, *_ in described() if each == name]
    return f"{found[0]:,g} {found[1]}".strip()


def main() -> None:
    """Replace the figures in all documents."""
    results = recorded()
    for name in DOCUMENTS:
        path = ROOT / name
        path.write_text(filled(path.read_text(encoding="utf-8"), results), encoding="utf-8")


if __name__ == "__main__":
    main()
