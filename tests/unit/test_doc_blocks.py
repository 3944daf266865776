"""Code blocks in documents have a label, and what can be checked without a service is right.

`tests/integration/docs/test_doc_commands.py` runs those that are labeled `sh` and `sql`.
"""

import re
import shlex
import subprocess

import pytest
import yaml

from iot_tools.cli import main as cli
from support.code_blocks import DOCUMENTS, LABELS, ROOT, CodeBlock, code_blocks

NEED_SERVERS = {block.document for block in code_blocks("console")}

ARROW = re.compile(r"(\w+?)-?->>(\w+): ")


def place(block: CodeBlock) -> str:
    return block.place


def test_every_block_has_a_label() -> None:
    assert len(code_blocks()) > 30
    assert [block.place for block in code_blocks() if block.label not in LABELS] == []


def test_no_block_is_only_indented() -> None:
    """An indented block has no label."""
    for path in {path for pattern in DOCUMENTS for path in ROOT.glob(pattern)}:
        text = re.sub(
            r"^( *)```.*?^\1```$", "", path.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE
        )
        before = ""
        for part in re.split(r"\n\n+", text):
            # Four spaces after a list item continue the item, and make no block.
            in_item = re.search(r"(?m)^(- |\d+\. )", before) and not part.startswith(" " * 6)
            assert in_item or not re.match(r" {4}(?! *(?:- |\d))", part), (path.name, part)
            before = before if in_item and part.startswith("    ") else part


def test_no_block_is_in_a_list() -> None:
    """On the web site of `make docs-site`, the block would end a numbered list."""
    for path in {path for pattern in DOCUMENTS for path in ROOT.glob(pattern)}:
        assert re.findall(r"^ +```.*", path.read_text("utf-8"), re.MULTILINE) == [], path.name


@pytest.mark.parametrize("block", code_blocks("sh", "console"), ids=place)
def test_commands_are_valid_shell(block: CodeBlock) -> None:
    done = subprocess.run(
        ["/bin/bash", "-n"], input=block.text, text=True, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("block", code_blocks("sh", "console"), ids=place)
def test_paths_in_commands_exist(block: CodeBlock) -> None:
    for name in re.findall(r"(?<![\w/])(?:charts|k8s|bench|tests)/[\w./-]+", block.text):
        assert (ROOT / name).exists(), name


def our_commands(text: str) -> list[list[str]]:
    """Arguments of each `iot-sensor` command in a text."""
    lines = text.replace("\\\n", " ").splitlines()
    return [
        shlex.split(line, comments=True)[1:] for line in lines if line.startswith("iot-sensor ")
    ]


@pytest.mark.parametrize(
    "block",
    [block for block in code_blocks("sh", "console") if our_commands(block.text)],
    ids=place,
)
def test_commands_of_ours_have_valid_arguments(block: CodeBlock) -> None:
    for arguments in our_commands(block.text):
        cli._parser().parse_args(arguments)  # noqa: SLF001 - exits with 2 for an unknown option


def texts() -> list[str]:
    paths = {path for pattern in DOCUMENTS for path in ROOT.glob(pattern)}
    return [path.read_text(encoding="utf-8") for path in sorted(paths)]


def test_commands_of_ours_in_prose_exist() -> None:
    found = {name for text in texts() for name in re.findall(r"`iot-sensor ([a-z][a-z-]*)", text)}
    usage = cli._parser().format_help()  # noqa: SLF001
    known = set(re.findall(r"^    ([a-z-]+)\b", usage, re.MULTILINE))
    assert len(found) > 8
    assert found - known == set()


def test_commands_read_the_logs_of_every_pod() -> None:
    """`deployment/...` reads one pod, and a selector without --tail reads the last 10 lines."""
    found = [line for text in texts() for line in re.findall(r"kubectl.* logs [^|`]*", text)]
    assert len(found) > 5
    assert [line for line in found if " deployment/" in line] == []
    assert [line for line in found if "--selector" in line and "--tail -1" not in line] == []


def test_targets_of_make_in_documents_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    known = set(re.findall(r"^([a-z-]+):.* ##", makefile, re.MULTILINE))
    found = {name for text in texts() for name in re.findall(r"`make ([a-z-]+)", text)}
    found |= {
        name for block in code_blocks("sh", "console")
        for name in re.findall(r"^make ([a-z-]+)", block.text, re.MULTILINE)
    }  # fmt: skip
    assert len(found) > 15
    assert found - known == set()


@pytest.mark.parametrize("block", code_blocks("yaml"), ids=place)
def test_values_of_the_chart_exist(block: CodeBlock) -> None:
    values = yaml.safe_load((ROOT / "charts/iot-sensor/values.yaml").read_text(encoding="utf-8"))
    given = yaml.safe_load(block.text)
    for name, inner in given.items():
        assert set(inner) <= set(values[name]), name


@pytest.mark.parametrize("block", code_blocks("mermaid"), ids=place)
def test_diagrams_are_well_formed(block: CodeBlock) -> None:
    """Every participant of a sequence is declared, and every opened part ends."""
    lines = [line.strip() for line in block.text.splitlines()]
    opened = [line for line in lines if re.match(r"(alt|opt|loop|subgraph)\b", line)]
    assert len(opened) == lines.count("end")
    if lines[0] == "sequenceDiagram":
        declared = set(re.findall(r"participant (\w+) as", block.text))
        arrows = [found.groups() for line in lines if (found := ARROW.match(line))]
        assert {name for pair in arrows for name in pair} == declared


@pytest.mark.parametrize("document", sorted(NEED_SERVERS))
def test_blocks_that_no_test_runs(document: str) -> None:
    """Report them: their syntax, paths and our own commands are checked above."""
    lines = [str(block.line) for block in code_blocks("console") if block.document == document]
    pytest.skip(f"{document}: blocks that need a cluster or your servers: lines {', '.join(lines)}")
