"""Lists of tests name files that exist; `make` starts Python with bytecode."""

import os
import subprocess
from pathlib import Path

import pytest

from chart.conftest import FEW
from chart.matrix import MATRIX
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


def test_make_lets_python_write_bytecode() -> None:
    """Without bytecode, every process takes twice as long to start."""
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": "tests"}
    command = ["make", "--silent", "--eval", "show: ; @env", "show"]
    shown = subprocess.run(
        command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True
    )
    names = {line.partition("=")[0] for line in shown.stdout.splitlines()}
    assert "PYTHONPATH" in names
    assert "PYTHONDONTWRITEBYTECODE" not in names
