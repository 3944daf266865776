"""Figures in documents come from results.json, from the capacity model or from settings."""

import re
from pathlib import Path

import pytest
from bench.figures import COST, DOCUMENTS, FIGURE, MISSED, TABLE, filled
from bench.model_costs import MODULE, module
from bench.recorded import recorded, write
from bench.results import Kind, Results, Row
from bench.scale import FULL
from bench.spread import spread

from iot_models.settings import describe
from iot_tools.capacity.costs import Costs

ROOT = Path(__file__).parents[2]
WRITTEN_BY_HAND = (
    "README.md", "SECURITY.md", "docs/architecture.md", "docs/audit-log.md", "docs/backup.md",
    "docs/erasure.md", "docs/glossary.md", "docs/http.md", "docs/keys.md", "docs/limits.md",
    "docs/monitoring.md", "docs/network.md", "docs/old-clients.md", "docs/operations.md",
    "docs/reliability.md", "docs/runbooks.md", "docs/scaling.md", "docs/security.md",
    "docs/sizing.md", "docs/stores.md", "docs/tls.md", "docs/upgrade.md",
    "bench/README.md", "services/api/README.md", "services/writer/README.md",
)  # fmt: skip
"""Documents of the present state. ADRs and the changelog have figures of their date."""
UNITS = {
    "": 1, "s": 1, "seconds": 1, "minutes": 60, "an": 3600, "hour": 3600, "hours": 3600,
    "days": 86_400, "MiB": 2**20, "KiB": 2**10, "bytes": 1,
}  # fmt: skip


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", DOCUMENTS)
def test_figures_of_the_benchmark_are_those_of_results_json(name: str) -> None:
    assert filled(read(name), recorded()) == read(name), "run `make docs`"


def test_a_changed_result_changes_the_documents() -> None:
    text = "<!-- bench: single CPU / API as µs -->1 µs<!-- / --> <!-- cost: api_open -->2<!-- / -->"
    assert filled(text, recorded()) != text
    with pytest.raises(KeyError):
        filled("<!-- bench: no such figure --><!-- / -->", recorded())


@pytest.mark.parametrize("name", WRITTEN_BY_HAND)
def test_every_figure_of_speed_is_generated(name: str) -> None:
    """A load that is assumed is written as such, in the table of `ASSUMED`."""
    text = read(name)
    for pattern in (FIGURE, MISSED, TABLE, COST):
        text = pattern.sub("", text)
    text = re.sub(
        r"<!-- (overview|limits|costs) -->.*?<!-- end of \1 -->", "", text, flags=re.DOTALL
    )
    found = re.findall(
        r"\d(?:[\d.,]*\d)? (?:requests/s|readings/s|µs|(?:readings|requests) a second)", text
    )
    assert [figure for figure in found if figure not in ASSUMED.get(name, ())] == []


ASSUMED = {
    "docs/sizing.md": ("10,000 readings/s", "1000 readings/s"),
    "docs/scaling.md": ("20 requests a second", "200 requests a second"),
}  # fmt: skip
"""Loads in examples."""


def test_the_capacity_model_agrees_with_the_benchmark() -> None:
    costs = Costs()
    text = recorded().text("single CPU / API as µs").removesuffix(" µs")
    assert 0.8 <= (costs.api_entry + costs.api_reading) / float(text) <= 4


def test_the_constants_of_the_capacity_model_are_those_of_results_json() -> None:
    assert MODULE.read_text(encoding="utf-8") == module(recorded()), "run `make docs`"


def test_recorded_results_can_be_cited(tmp_path: Path) -> None:
    row = Row("speed", "requests/s", spread([1000, 3000, 2000]))
    row.at_least(Kind.AIM, 2, "peer", 1000.0)
    results = Results(rows=[row])
    results.detail("section", "cost", spread([1.5]), "s")
    path = tmp_path / "results.json"
    write(results, FULL, path)
    found = recorded(path)
    assert found.text("speed") == "2,000 requests/s"
    assert found.text("speed vs aim: 2 x peer") == "2.00"
    assert found.missed() == []
    assert found.text("section / cost") == "1.50 s"
    assert found.text("section / cost as µs") == "1.50 µs"


def test_limits_that_are_not_kept_are_listed(tmp_path: Path) -> None:
    speed, wait = Row("speed", "/s", spread([3.0])), Row("wait", "ms", spread([90.0]))
    speed.at_least(Kind.FLOOR, 2, "peer", 1.0).at_least(Kind.AIM, 2, "peer", 2.0)
    wait.below(Kind.AIM, 50, "ms")
    path = tmp_path / "results.json"
    write(Results(rows=[speed, wait]), FULL, path)
    text = "<!-- bench missed -->\nold\n<!-- end of bench missed -->"
    assert filled(text, recorded(path)).splitlines()[1:-1] == [
        "| figure | result | limit | ratio to the reference |",
        "|---|---|---|---|",
        "| speed | 3.00 /s | aim: 2 x peer | 1.50 x |",
        "| wait | 90.0 ms | aim: at most 50.0 ms |  |",
    ]


def number(text: str) -> float | None:
    """A quantity of prose in the base unit; None if the text is no quantity."""
    found = re.match(r"(an|[\d,.]+) ?(\w*)", text)
    if found is None:
        return None
    unit = UNITS.get(found[2])
    digits = found[1].rstrip(".,").replace(",", "")
    if found[1] == "an":
        return 3600.0 if found[2] == "hour" else None
    return None if unit is None else float(digits) * unit


@pytest.mark.parametrize("name", WRITTEN_BY_HAND)
def test_limits_in_documents_are_the_defaults_of_settings(name: str) -> None:
    """`SETTING` (value), and value (`SETTING`)."""
    defaults = {row[0]: row[1] for row in describe()}
    text = read(name)
    cited = re.findall(r"`(IOT_\w+)` \(([^):]+)\)", text)
    cited += [(b, a) for a, b in re.findall(r"([\d,.]+ \w+) \(`(IOT_\w+)`\)", text)]
    wrong = []
    for setting, value in cited:
        quantity = number(value)
        if quantity is not None and quantity != float(defaults[setting] or "nan"):
            wrong.append((setting, value, defaults[setting]))
    assert wrong == []


def test_a_run_of_one_measure_replaces_its_figures_only(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    first = [Row("speed", "ms", spread([1.0])), Row("p99", "ms", spread([2.0]))]
    write(Results(rows=first), FULL, path)
    write(Results(rows=[Row("speed", "ms", spread([3.0]))]), FULL, path, only=["flood"])
    found = recorded(path)
    assert found.text("p99") == "2.00 ms"
    assert found.text("speed") == "3.00 ms"
    assert set(found.content["partial"]["flood"]) == {"written", "scale", "load"}
