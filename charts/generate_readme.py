# ruff: noqa: INP001 -- a script beside the files that it reads
"""Writes the table of values in the chart's README from the comments in its values.yaml.

A comment that begins with `# --` documents the value below it. `make docs` runs this script. With
`--check` it only reports whether the table is up to date.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).parent / "iot-sensor"
BEGIN = "<!-- values: made by `make docs` -->\n"
END = "<!-- end of values -->\n"
LONGEST_DEFAULT = 90

Row = tuple[str, str, str]


def rows(text: str) -> Iterator[Row]:
    """Path, default and meaning of every value of values.yaml, in order.

    Raises:
        ValueError: a value has no comment, nor has any that it is a part of.
    """
    root = yaml.compose(text, yaml.SafeLoader)
    if not isinstance(root, yaml.MappingNode):
        raise TypeError("values.yaml holds no values")
    yield from _rows(root, yaml.safe_load(text), text.splitlines(), (), documented=False)


def _rows(
    node: yaml.MappingNode,
    values: Any,
    lines: list[str],
    path: tuple[str, ...],
    *,
    documented: bool,
) -> Iterator[Row]:
    for key, value in node.value:
        inner = (*path, key.value)
        # The values of a flow mapping, `{a: 1}`, have no comments of their own.
        meaning = "" if node.flow_style else _comment(lines, key.start_mark.line)
        if meaning:
            yield ".".join(inner), _default(values[key.value]), meaning
        if isinstance(value, yaml.MappingNode) and value.value:
            told = documented or bool(meaning)
            yield from _rows(value, values[key.value], lines, inner, documented=told)
        elif not (meaning or documented):
            raise ValueError(f"{'.'.join(inner)} has no comment that begins with `# --`")


def _comment(lines: list[str], line: int) -> str:
    """Return the comment that ends above a line, from its `# --` on; empty without a comment."""
    found: list[str] = []
    for above in reversed(lines[:line]):
        words = above.strip()
        if not words.startswith("#"):
            break
        found.insert(0, words.removeprefix("#").strip())
        if words.startswith("# -- "):
            return " ".join(found).removeprefix("-- ")
    return ""


def _default(value: Any) -> str:
    shown = json.dumps(value)
    return f"`{shown}`" if len(shown) <= LONGEST_DEFAULT else "see values.yaml"


def table(text: str) -> str:
    """Return the table in Markdown."""
    head = ["| Value | Default | Meaning |", "| --- | --- | --- |"]
    cells = ((f"`{path}`", default, meaning) for path, default, meaning in rows(text))
    body = [" | ".join(cell.replace("|", r"\|") for cell in row) for row in cells]
    return "\n".join([*head, *(f"| {row} |" for row in body)]) + "\n"


def readme(before: str, text: str) -> str:
    """Return the README with the table of these values."""
    start, _, rest = before.partition(BEGIN)
    _, _, end = rest.partition(END)
    return f"{start}{BEGIN}\n{table(text)}\n{END}{end}"


def main(arguments: list[str]) -> int:
    """Write the README; with `--check`, return 1 if it would change."""
    path = CHART / "README.md"
    before = path.read_text(encoding="utf-8")
    after = readme(before, (CHART / "values.yaml").read_text(encoding="utf-8"))
    if arguments == ["--check"]:
        if before != after:
            print(f"{path.relative_to(CHART.parents[1])} is stale: run `make docs`")
        return int(before != after)
    path.write_text(after, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
