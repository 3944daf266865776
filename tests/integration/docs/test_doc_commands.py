"""The code blocks that documents label `sh` and `sql` work as they are printed."""

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from iot_cipher.keyring import create_keyring_file
from support.code_blocks import ROOT, CodeBlock, code_blocks
from support.stack import Stack

TESTED_ELSEWHERE = {"make run\n": "tests/system/local/test_make_run.py"}
SERVICE = "http://127.0.0.1:5000"
"""Address of the service in documents."""


def scripts() -> list[CodeBlock]:
    return [block for block in code_blocks("sh") if block.text not in TESTED_ELSEWHERE]


def place(block: CodeBlock) -> str:
    return block.place


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A directory with the files that the scripts expect."""
    made = tmp_path / "reader"
    made.mkdir()
    create_keyring_file(made / "keyring.json")
    shutil.copy(ROOT / "charts/iot-sensor/production/redis-users.acl", made / "users.acl")
    shutil.copy(ROOT / "tests/fixtures/legacy/encpassword.db", made)
    return made


def run(block: CodeBlock, directory: Path, environment: dict[str, str], address: str) -> str:
    """Run a script and return its output."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["/bin/bash", "-euo", "pipefail", "-c", block.text.replace(SERVICE, address)],
        cwd=directory,
        env={**environment, "PATH": path, "API_PASSWORD": "a password"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, f"{block.place}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.parametrize("block", scripts(), ids=place)
def test_scripts_of_documents_run(
    block: CodeBlock, directory: Path, environment: dict[str, str], request: pytest.FixtureRequest
) -> None:
    address = SERVICE
    if SERVICE in block.text:
        stack: Stack = request.getfixturevalue("stack")
        address = f"http://127.0.0.1:{stack.port}"
    output = run(block, directory, environment, address)
    assert '"error"' not in output
    if SERVICE in block.text:
        assert re.search(r"object\(s\) created|acknowledged|65 imported", output)
    if block.text.startswith("sed -i"):
        original = (ROOT / "charts/iot-sensor/production/redis-users.acl").read_text("utf-8")
        assert (directory / "users.acl").read_text(encoding="utf-8") != original


def imported(text: str) -> set[str]:
    """Return the packages that a script imports."""
    nodes = list(ast.walk(ast.parse(text)))
    names = {each.name for node in nodes if isinstance(node, ast.Import) for each in node.names}
    names |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    return {name.partition(".")[0] for name in names}


def runs_here(block: CodeBlock) -> bool:
    """Return whether a Python script needs nothing but Python and the client."""
    return imported(block.text) <= {*sys.stdlib_module_names, "iot_sensor_client"}


PYTHON = [block for block in code_blocks("python") if runs_here(block)]


def test_some_scripts_need_other_packages() -> None:
    """Their syntax is checked; they need a broker, a board or a screen."""
    others = [block.place for block in code_blocks("python") if not runs_here(block)]
    assert PYTHON
    assert others


@pytest.mark.parametrize("block", PYTHON, ids=place)
def test_python_of_documents_runs(block: CodeBlock, stack: Stack) -> None:
    text = block.text.replace(SERVICE, f"http://127.0.0.1:{stack.port}")
    done = subprocess.run(
        [sys.executable, "-c", text], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, f"{block.place}\n{done.stderr}"


@pytest.mark.parametrize("block", code_blocks("sql"), ids=place)
def test_sql_of_documents_runs(block: CodeBlock, postgres_url: str) -> None:
    with psycopg.connect(postgres_url) as connection:
        connection.execute(block.text.encode())


def test_other_tests_run_the_rest() -> None:
    found = {block.text for block in code_blocks("sh")}
    for text, test in TESTED_ELSEWHERE.items():
        assert text in found
        assert (ROOT / test).exists()
