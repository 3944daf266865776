"""Figures are compared with their floors and aims."""

import importlib.util
from pathlib import Path

import pytest
from bench.plot import draw
from bench.results import Kind, Results, Row
from bench.spread import Spread, number, spread
from bench.tables import markdown, plain


def test_a_spread_shows_the_median_and_the_range() -> None:
    assert spread([3, 1, 2]).median == 2
    assert spread([300, 100, 200]).text() == "200 (100 .. 300)"
    assert spread([0.5]).text() == "0.50"
    assert number(1234567.8) == "1,234,568"


def test_ratios_are_computed_within_a_round() -> None:
    """Both sides are slow in the second round, so the ratio is stable."""
    assert spread([10, 1]).over(spread([5, 0.5])) == spread([2, 2])
    assert spread([10, 20]).over(5) == spread([2, 4])
    assert spread([10, 20]).over(spread([5])) == spread([2, 4])


@pytest.mark.parametrize(
    ("ours", "verdict", "reached"), [(10.0, "held", 2), (5.0, "held", 1), (4.0, "NOT HELD", 0.8)]
)
def test_a_speed_must_reach_its_bar(ours: float, verdict: str, reached: float) -> None:
    (bar,) = Row("speed", "/s", spread([ours])).at_least(Kind.FLOOR, 5, "peer", 1.0).bars
    assert bar.verdict == verdict
    assert bar.reached == pytest.approx(reached)


@pytest.mark.parametrize(
    ("ours", "verdict", "reached"),
    [(25.0, "held", 4), (100.0, "held", 1), (200.0, "NOT HELD", 0.5)],
)
def test_a_cost_must_stay_under_its_bar(ours: float, verdict: str, reached: float) -> None:
    row = Row("cost", "B", spread([ours])).at_most(Kind.FLOOR, 0.25, "rows", 400.0)
    for bar in row.below(Kind.AIM, 100, "B").bars:
        assert bar.verdict == verdict
        assert bar.reached == pytest.approx(reached)


def test_a_bar_is_compared_with_the_median() -> None:
    row = Row("speed", "/s", spread([1, 2, 100])).at_least(Kind.FLOOR, 5, "peer", 1.0)
    assert row.bars[0].held is False


@pytest.mark.parametrize(
    ("ours", "theirs"), [(None, spread([1.0])), (spread([1.0]), None), (None, None)]
)
def test_missing_figures_are_neither_held_nor_missed(
    ours: Spread | None, theirs: Spread | None
) -> None:
    row = Row("speed", "/s", ours).at_least(Kind.FLOOR, 5, "peer", theirs)
    assert row.bars[0].verdict == "not measured"
    assert row.bars[0].reached is None
    assert Results(rows=[row]).missed_floors == []


def test_the_table_shows_floors_aims_ratios_and_verdicts() -> None:
    row = Row("speed", "requests/s", spread([30, 40, 50]))
    row.at_least(Kind.FLOOR, 5, "old", spread([10, 10, 10])).at_least(Kind.AIM, 2, "new", 10.0)
    results = Results(rows=[row], notes=["a note"], failures=["memory: it broke"])
    results.detail("section", "name", spread([1.5]), "s")
    for text in (plain(results), markdown(results)):
        assert "40.0 (30.0 .. 50.0) requests/s" in text
        assert "floor: 5 x old" in text
        assert "4.00 (3.00 .. 5.00)" in text
        assert "NOT HELD" in text
        assert "aim: 2 x new" in text
        assert "1.50 s" in text
    said = plain(results)
    assert "! floor not held: speed: 5 x old" in said
    assert "! not measured: memory: it broke" in said
    assert "- a note" in said
    assert "Every floor" not in said


def test_the_plot_is_drawn_if_matplotlib_is_installed(tmp_path: Path) -> None:
    row = Row("speed", "/s", spread([3.0])).at_least(Kind.FLOOR, 5, "peer", 1.0)
    row.at_most(Kind.AIM, 5, "peer", 1.0).at_least(Kind.AIM, 5, "absent", None)
    results = Results(rows=[row], speeds={"speed": {"this service": spread([1, 3, 2])}})
    drawn = draw(results, tmp_path / "plot.png")
    assert drawn == (importlib.util.find_spec("matplotlib") is not None)
    assert (tmp_path / "plot.png").exists() == drawn


def test_the_summary_says_that_every_floor_is_held() -> None:
    row = Row("speed", "/s", spread([1.0])).at_least(Kind.FLOOR, 1, "peer", 1.0)
    assert plain(Results(rows=[row])).endswith("Every floor that was measured is held.")
