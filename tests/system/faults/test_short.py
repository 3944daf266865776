"""A short fault run with every kind of fault loses no reading."""

import re
from pathlib import Path

from system.faults.kinds import KINDS
from system.faults.plan import make_plan
from system.faults.recovery import LIMIT_SECONDS
from system.faults.separate_run import check_run

_SECONDS = 240
"""Timeout. The run takes a minute, and longer on a busy machine."""


def test_every_kind_of_fault_loses_no_reading() -> None:
    faults = len(KINDS)
    assert {planned.kind for planned in make_plan(1, faults)} == set(KINDS)
    options = ["--seed", "1", "--faults", str(faults), "--readings", "15000"]
    options += ["--repeats", "1", "--every", "0.9", "--forked"]
    check_run("system.faults", *options, seconds=_SECONDS)


def test_the_reliability_document_names_the_number_of_kinds_and_the_limit() -> None:
    document = Path(__file__).parents[3] / "docs" / "reliability.md"
    text = " ".join(document.read_text(encoding="utf-8").split())
    found = re.search(r"injects (\d+) kinds of faults", text)
    assert found is not None
    assert int(found[1]) == len(KINDS)
    assert f"a recovery takes longer than {LIMIT_SECONDS:g} s." in text


def test_a_plan_depends_only_on_its_seed() -> None:
    assert make_plan(7, 60) == make_plan(7, 60)
    assert make_plan(7, 60) != make_plan(8, 60)
