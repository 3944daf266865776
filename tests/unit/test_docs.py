"""What docs repeat of the code agrees with it."""

import re
from pathlib import Path

import yaml

from iot_models.settings import describe

ROOT = Path(__file__).parents[2]


def test_docs_list_every_setting_as_it_is() -> None:
    text = (ROOT / "docs/settings.md").read_text(encoding="utf-8")
    rows = [
        line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| IOT_")
    ]
    assert rows == [list(row) for row in describe()], "run `make docs`"


def test_docs_name_files_that_exist() -> None:
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    table = [line for line in text.splitlines() if line.startswith("|") and "`" in line]
    named = [
        word for line in table for word in line.split("`")[1::2] if word.startswith(("s", "t"))
    ]
    paths = [word for word in named if "/" in word]
    assert len(paths) > 15
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_the_security_document_names_tests_that_exist() -> None:
    text = (ROOT / "docs/security.md").read_text(encoding="utf-8")
    table = text.partition("## Who can read what")[2].partition("\n## ")[0]
    rows = [line.split("|")[3] for line in table.splitlines() if line.startswith("| ")][1:]
    assert len(rows) > 8
    for row in rows:
        found = re.findall(r"`(tests/[\w/]+\.py)`: ((?:`test_\w+`(?:, )?)+)", row)
        assert found, f"no test: {row}"
        for path, names in found:
            code = (ROOT / path).read_text(encoding="utf-8")
            for name in re.findall(r"test_\w+", names):
                assert f"def {name}(" in code, f"{path}: {name}"


def anchors(text: str) -> set[str]:
    """What headings can be linked to by."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings}


def test_links_between_docs_lead_somewhere() -> None:
    """Files that are there, and headings in them."""
    links = [
        (path, target)
        for path in sorted(ROOT.glob("docs/**/*.md"))
        for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8"))
    ]
    assert len(links) > 20
    for path, target in links:
        name, _, anchor = target.partition("#")
        there = (path.parent / name).resolve() if name else path
        assert there.exists(), f"{path.name}: {target}"
        if anchor:
            assert anchor in anchors(there.read_text(encoding="utf-8")), f"{path.name}: {target}"


def test_each_runbook_is_an_alert_s() -> None:
    """And each alert has one."""
    groups = yaml.safe_load((ROOT / "charts/iot-sensor/alerts.yaml").read_text("utf-8"))["groups"]
    alerts = {alert["name"] for group in groups for alert in group["alerts"]}
    text = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^### (Iot\w+)$", text, re.MULTILINE)) == alerts
