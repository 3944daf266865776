"""The README of the chart has the comments of values.yaml."""

import importlib.util
import subprocess
import sys
from types import ModuleType

import pytest
import yaml

from chart.rendering import CHART

SCRIPT = CHART.parent / "generate_readme.py"


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    """The script that `make docs` runs."""
    spec = importlib.util.spec_from_file_location("generate_readme", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_readme_is_current() -> None:
    said = subprocess.run(
        [sys.executable, SCRIPT, "--check"], capture_output=True, text=True, check=False
    )
    assert said.returncode == 0, said.stdout + said.stderr


def test_a_stale_readme_is_detected(generator: ModuleType) -> None:
    before = (CHART / "README.md").read_text(encoding="utf-8")
    values = (CHART / "values.yaml").read_text(encoding="utf-8")
    assert generator.readme(before, values) == before
    changed = values.replace("\nshards: 8\n", "\nshards: 9\n")
    assert changed != values
    assert "| `shards` | `9` |" in generator.readme(before, changed)


def test_comments_of_several_lines_and_of_blocks(generator: ModuleType) -> None:
    text = (
        "# No row: this is about the file.\n\n"
        "a:\n  # Nor this.\n  # -- One\n  # and two.\n  b: [1, x|y]\n"
        "# -- Of the block.\nc:\n  d: 1\n  e: {f: 2}\n"
        "# -- Once.\ng: {h: 1, i: 2}\n"
    )
    assert list(generator.rows(text)) == [
        ("a.b", '`[1, "x|y"]`', "One and two."),
        ("c", '`{"d": 1, "e": {"f": 2}}`', "Of the block."),
        ("g", '`{"h": 1, "i": 2}`', "Once."),
    ]
    assert r"x\|y" in generator.table(text)


def test_a_value_without_a_comment_is_refused(generator: ModuleType) -> None:
    with pytest.raises(ValueError, match=r"a\.c has no comment"):
        list(generator.rows("a:\n  # -- One.\n  b: 1\n  c: 2\n"))


def test_rows_are_sentences_about_existing_values(generator: ModuleType) -> None:
    """Each path is a value, and each meaning ends like a sentence."""
    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    for path, _, meaning in generator.rows((CHART / "values.yaml").read_text(encoding="utf-8")):
        found = values
        for name in path.split("."):
            found = found[name]
        assert meaning.endswith((".", ")")), f"{path}: {meaning}"
