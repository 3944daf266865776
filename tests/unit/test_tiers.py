"""Lists of tests name files that exist."""

from pathlib import Path

import pytest

from chart.conftest import FEW
from chart.matrix import MATRIX
from support.longest_first import LONGEST, TEST_BY_TEST, rank

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("path", sorted({*LONGEST, *TEST_BY_TEST}))
def test_a_file_or_folder_of_the_order_exists(path: str) -> None:
    assert (ROOT / path).exists()
    assert (ROOT / path).is_dir() == path.endswith("/")


def test_a_file_comes_before_its_folder() -> None:
    assert [rank(path) for path in LONGEST] == list(range(len(LONGEST)))
    assert rank("tests/unit/test_tiers.py::test") >= len(LONGEST)


def test_the_few_sets_of_values_are_in_the_matrix() -> None:
    assert set(FEW) < set(MATRIX)
