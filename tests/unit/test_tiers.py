"""Lists of tests name files that exist; `make` starts Python with bytecode and priorities."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from chart.conftest import FEW
from chart.matrix import MATRIX
from support.background import NICENESS
from support.longest_first import LONGEST, SERVICE_BY_SERVICE, TEST_BY_TEST, WAITING, rank

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("path", sorted({*LONGEST, *TEST_BY_TEST, *SERVICE_BY_SERVICE, *WAITING}))
def test_a_file_or_folder_of_the_order_exists(path: str) -> None:
    assert (ROOT / path).exists()
    assert (ROOT / path).is_dir() == path.endswith("/")


def test_a_file_comes_before_its_folder() -> None:
    assert [rank(path) for path in LONGEST] == list(range(len(LONGEST)))
    assert rank("tests/unit/test_tiers.py::test") >= len(LONGEST)


def test_the_few_sets_of_values_are_in_the_matrix() -> None:
    assert set(FEW) < set(MATRIX)


def shown_by_make(command: str, environment: dict[str, str]) -> str:
    """Return the output of a command in a recipe of the Makefile."""
    arguments = ["make", "--silent", "--eval", f"show: ; @{command}", "show"]
    return subprocess.run(
        arguments, cwd=ROOT, env=environment, check=True, capture_output=True, text=True
    ).stdout


@pytest.mark.parametrize(
    "variable", ["LONG_TESTS", "TIMED_TESTS", "PAGE_TESTS", "BACKGROUND_TESTS"]
)
def test_files_and_folders_of_the_makefile_exist(variable: str) -> None:
    """pytest says nothing about an ignored path that does not exist."""
    paths = shown_by_make(f"echo $({variable})", dict(os.environ)).split()
    assert paths
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_make_lets_python_write_bytecode() -> None:
    """Without bytecode, every process takes twice as long to start."""
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": "tests"}
    names = {line.partition("=")[0] for line in shown_by_make("env", environment).splitlines()}
    assert "PYTHONPATH" in names
    assert "PYTHONDONTWRITEBYTECODE" not in names


def shown_in_the_background(script: str, shown: str) -> str:
    """Run Python code in a background job of a shell. `script` starts it with "$0" -c "$1"."""
    command = ["sh", "-c", f"{script} & wait", sys.executable, shown]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "tests")}
    return subprocess.run(
        command, env=environment, check=True, capture_output=True, text=True
    ).stdout.strip()


def test_a_command_in_the_background_has_a_low_priority() -> None:
    script = '"$0" -m support.background "$0" -c "$1"'
    niceness = shown_in_the_background(script, "import os; print(os.nice(0))")
    assert niceness == str(min(os.nice(0) + NICENESS, 19))


def test_tests_in_the_background_handle_sigint() -> None:
    """A shell that runs a script ignores SIGINT in its background jobs."""
    shown = "import conftest, signal; print(signal.getsignal(signal.SIGINT).__name__)"
    assert shown_in_the_background('"$0" -c "$1"', shown) == "default_int_handler"
