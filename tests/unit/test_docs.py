"""What docs repeat of the code agrees with it."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from iot_models.metrics_reference import reference
from iot_models.names import DRAIN_JOB_PREFIX, JOBS
from iot_models.settings import describe

ROOT = Path(__file__).parents[2]
DOCUMENTS = (
    *("*.md", "docs/**/*.md", "clients/*/*.md", "services/*/*.md", "charts/*/README.md"),
    *("bench/*.md", "k8s/*.md", "tests/*.md", "tests/e2e/*.md"),
)


def test_docs_list_every_setting_as_it_is() -> None:
    text = (ROOT / "docs/settings.md").read_text(encoding="utf-8")
    rows = [
        line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| IOT_")
    ]
    assert rows == [list(row) for row in describe()], "run `make docs`"


def test_docs_list_every_metric_as_it_is() -> None:
    text = (ROOT / "docs/metrics.md").read_text(encoding="utf-8")
    assert text == reference(), "run `make docs`"


def test_the_writer_s_readme_lists_every_job() -> None:
    text = (ROOT / "services/writer/README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\S+)` \|", text, re.MULTILINE)
    assert sorted(rows) == sorted([*JOBS, f"{DRAIN_JOB_PREFIX}<shard>"])


def test_architecture_names_files_that_exist() -> None:
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    table = text.partition("## Where is what")[2].partition("\n## ")[0]
    rows = [line for line in table.splitlines() if line.startswith("| ") and "`" in line]
    found = [re.findall(r"`([\w.-]+/[\w./-]+)`", line.split("|")[2]) for line in rows]
    assert len(rows) > 90
    assert all(found), "a row without a file"
    assert [name for names in found for name in names if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("document", ["docs/architecture.md", "CONTRIBUTING.md"])
def test_paths_in_documents_exist(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    roots = "bench|charts|clients|docs|k8s|services|shared|tests|tools"
    names = re.findall(rf"`((?:{roots})/[\w./-]+)`", text)
    assert len(names) > 15
    assert [name for name in names if not (ROOT / name).exists()] == []


def test_diagrams_have_no_semicolons() -> None:
    """In Mermaid, a semicolon ends the statement, as a line break does."""
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    diagrams = re.findall(r"```mermaid\n(.*?)```", text, re.DOTALL)
    assert len(diagrams) >= 2
    assert [line for each in diagrams for line in each.splitlines() if ";" in line] == []


def test_the_security_document_names_tests_that_exist() -> None:
    text = (ROOT / "docs/security.md").read_text(encoding="utf-8")
    section = text.partition("## Who can read what")[2].partition("\n## ")[0]
    tables = [
        [line.split("|")[1:3] for line in part.splitlines() if line.startswith("| ")][1:]
        for part in section.split("### Tests of this table")
    ]
    statements, tests = tables
    assert len(statements) > 8
    assert [name for name, _ in tests] == [name for name, _ in statements]
    for _, row in tests:
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
        for pattern in DOCUMENTS
        for path in sorted(ROOT.glob(pattern))
        for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8"))
        if not target.startswith("https://")
    ]
    assert len(links) > 100
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
    text = (ROOT / "docs/runbooks.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^### (Iot\w+)$", text, re.MULTILINE)) == alerts


def test_runbooks_name_dashboards_and_panels_that_exist() -> None:
    """Names in italics, in paragraphs that mention a dashboard or a panel."""
    paths = sorted((ROOT / "charts/iot-sensor/dashboards").glob("*.json"))
    boards = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    titles = {board["title"].removeprefix("iot-sensor / ") for board in boards}
    titles |= {panel["title"] for board in boards for panel in board["panels"]}
    text = (ROOT / "docs/runbooks.md").read_text(encoding="utf-8")
    found = {
        " ".join(name.split())
        for paragraph in text.split("\n\n")
        if re.search(r"\b(dashboard|panel)\b", paragraph)
        for name in re.findall(r"\*([^*]+)\*", paragraph)
        if not name.endswith(".")  # the summary of an alert
    }
    assert len(found) > 10
    assert found - titles == set()


def test_the_index_of_decisions_is_complete() -> None:
    index = (ROOT / "docs/adr/README.md").read_text(encoding="utf-8")
    for path in sorted((ROOT / "docs/adr").glob("0*.md")):
        if path.name != "0000-template.md":
            text = path.read_text(encoding="utf-8")
            title = re.match(r"# (\d{4}): (.+)\n", text)
            status = re.search(r"^- Status: (.+)$", text, re.MULTILINE)
            assert title, path.name
            assert status, path.name
            row = f"| [{title[1]}]({path.name}) | {title[2]} | {status[1]} |"
            assert row in index, f"docs/adr/README.md lacks: {row}"


def test_decisions_have_the_sections_of_the_template() -> None:
    directory = ROOT / "docs/adr"
    template = (directory / "0000-template.md").read_text(encoding="utf-8")
    sections = re.findall(r"^## .+$", template, re.MULTILINE)
    for path in sorted(directory.glob("0*.md")):
        text = path.read_text(encoding="utf-8")
        assert re.findall(r"^## .+$", text, re.MULTILINE) == sections, path.name


def test_no_document_has_marks_of_a_merge_conflict() -> None:
    for pattern in DOCUMENTS:
        for path in ROOT.glob(pattern):
            assert not re.search(
                r"^(<{7}|>{7}) ", path.read_text(encoding="utf-8"), re.MULTILINE
            ), path


def test_each_adr_has_its_own_number() -> None:
    numbers = [path.name[:4] for path in sorted((ROOT / "docs/adr").glob("0*.md"))]
    assert len(set(numbers)) == len(numbers)


def test_methods_that_documents_name_exist() -> None:
    classes: dict[str, str] = {}
    for path in sorted(ROOT.glob("s*/**/*.py")):
        source = path.read_text(encoding="utf-8")
        classes |= dict.fromkeys(re.findall(r"^class (\w+)", source, re.MULTILINE), source)
    missing = [
        f"{path.relative_to(ROOT)}: {name}.{member}"
        for path in sorted(ROOT.glob("docs/**/*.md"))
        for name, member in re.findall(r"`([A-Z]\w+)\.(\w+)`", path.read_text(encoding="utf-8"))
        if name in classes and not re.search(rf"\b{member}\b", classes[name])
    ]
    assert not missing


@pytest.mark.parametrize("pattern", DOCUMENTS)
def test_lists_come_out_as_lists_on_the_web_site(pattern: str) -> None:
    """python-markdown needs four spaces for what belongs to a list item, and a blank line before
    a list; GitHub needs neither."""
    found = {
        str(path.relative_to(ROOT)): faults
        for path in sorted(ROOT.glob(pattern))
        if (faults := list(_list_faults(path.read_text(encoding="utf-8"))))
    }
    assert found == {}


def _list_faults(text: str) -> Iterator[str]:
    for block in re.split(r"\n\s*\n", re.sub(r"(?ms)^ *```.*?^ *```$", "", text)):
        lines = [line for line in block.splitlines() if not re.match(r"#+ |\s*$", line)]
        for number, line in enumerate(lines):
            indent = len(line) - len(line.lstrip(" "))
            is_item = bool(re.match(r" *(- |1\. )", line))
            if 0 < indent < 4 and (number == 0 or is_item or line.lstrip().startswith("|")):
                yield f"indent with four spaces: {line}"
            if number and is_item and not re.match(r" *(- |\d+\. )", lines[0]):
                yield f"a blank line is missing before the list: {line}"
            if number and indent < 4 and lines[0].startswith("    "):
                yield f"indent with four spaces, or put a blank line before: {line}"
            if number and re.match(r" *<!-- .* -->.", line):
                yield f"a comment at the start of a line ends the paragraph: {line}"
