"""promtool checks the syntax of the alerts and when they fire.

The cases are `rules/*.yaml` in the format of promtool; `rules.yaml` holds the rendered rules.
"""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from chart.expressions import mistakes, series
from chart.matrix import MATRIX, ValuesSet
from chart.rendering import objects, rendered, template
from chart.schemas import NEWEST
from chart.test_metrics import EVERYTHING, alerts, dashboards, queries

FILES = sorted((Path(__file__).parent / "rules").glob("*.yaml"))
CASES = {path.name: yaml.load(path.read_bytes(), yaml.CSafeLoader) for path in FILES}


@pytest.fixture(scope="module")
def promtool() -> str:
    """Path of promtool, the tool of Prometheus."""
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("promtool is not installed here (Debian has it in `prometheus`)")
    return found


@pytest.fixture(scope="module")
def groups() -> list[dict[str, Any]]:
    """The groups of the rendered PrometheusRule."""
    everything = MATRIX[EVERYTHING].values
    text = template(ValuesSet(everything, release="test", namespace="default"))
    (rule,) = (each for each in objects(text) if each["kind"] == "PrometheusRule")
    found: list[dict[str, Any]] = rule["spec"]["groups"]
    return found


def write_rules(path: Path, groups: list[dict[str, Any]]) -> None:
    """Write a rules file of Prometheus."""
    path.write_text(yaml.safe_dump({"groups": groups}), encoding="utf-8")


def input_series(tests: list[dict[str, Any]]) -> list[str]:
    """Return all series of some cases."""
    return [each["series"] for case in tests for each in case["input_series"]]


def with_data(groups: list[dict[str, Any]], cases: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the groups with the alerts that the cases name or whose metrics the cases have.

    promtool evaluates every rule at every step of a case. The other alerts have no series there.
    """
    tests = cases["tests"]
    given = {name for name, _ in series("\n".join(input_series(tests)))}
    asked = {each["alertname"] for case in tests for each in case["alert_rule_test"]}
    return [
        group | {"rules": rules}
        for group in groups
        if (
            rules := [
                rule
                for rule in group["rules"]
                if rule["alert"] in asked or given & {name for name, _ in series(rule["expr"])}
            ]
        )
    ]


def run(promtool: str, *words: str | Path) -> None:
    said = subprocess.run(
        [promtool, *map(str, words)], capture_output=True, text=True, check=False, timeout=60
    )
    assert said.returncode == 0, said.stdout + said.stderr


def test_prometheus_accepts_the_rules(
    promtool: str, groups: list[dict[str, Any]], tmp_path: Path
) -> None:
    path = tmp_path / "rules.yaml"
    write_rules(path, groups)
    run(promtool, "check", "rules", "--lint=all", "--lint-fatal", path)


def test_prometheus_accepts_the_expressions_of_the_dashboards(
    promtool: str, tmp_path: Path
) -> None:
    expressions = [
        # Variables that Grafana replaces.
        re.sub(r"\$\{?__\w+\}?", "5m", text)
        for each in dashboards(rendered(EVERYTHING, NEWEST))
        for text in queries(each)
    ]
    records = [
        {"record": f"panel:{number}", "expr": re.sub(r"\$\{?\w+(:\w+)?\}?", "x", text)}
        for number, text in enumerate(expressions)
    ]
    path = tmp_path / "panels.yaml"
    write_rules(path, [{"name": "panels", "rules": records}])
    run(promtool, "check", "rules", path)


@pytest.mark.parametrize("name", CASES)
def test_alerts_fire_as_in_the_cases(
    promtool: str, groups: list[dict[str, Any]], tmp_path: Path, name: str
) -> None:
    (file,) = CASES[name]["rule_files"]
    write_rules(tmp_path / file, with_data(groups, CASES[name]))
    path = tmp_path / f"cases-of-{name}"
    path.write_text(yaml.safe_dump(CASES[name]), encoding="utf-8")
    run(promtool, "test", "rules", path)


def test_cases_use_existing_series() -> None:
    named = [each for cases in CASES.values() for each in input_series(cases["tests"])]
    assert named
    assert [(each, said) for each in named if (said := mistakes(each))] == []


def test_every_alert_has_a_firing_and_a_silent_case() -> None:
    fires: set[str] = set()
    silent: set[str] = set()
    for case in (case for each in CASES.values() for case in each["tests"]):
        asked: list[dict[str, Any]] = case.get("alert_rule_test", [])
        fires |= {each["alertname"] for each in asked if each.get("exp_alerts")}
        silent |= {each["alertname"] for each in asked if not each.get("exp_alerts")}
    names = {each["alert"] for each in alerts(rendered(EVERYTHING, NEWEST))}
    assert fires == names
    assert silent == names
