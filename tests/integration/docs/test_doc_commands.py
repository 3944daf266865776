"""The code blocks that documents label `sh` and `sql` work as they are printed."""

import ast
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import psycopg
import pytest

from iot_cipher.keyring import create_keyring_file
from iot_sensor_client import Client
from iot_tools.local.launcher import environment_with
from support.code_blocks import ROOT, CodeBlock, code_blocks, run_script
from support.stack import Stack
from support.waiting import wait_until

TESTED_ELSEWHERE = {"make run\n": "tests/system/local/test_make_run.py"}
SERVICE = "http://127.0.0.1:5000"
"""Address of the service in documents."""
PASSWORD = "my password"
"""Password in documents. In each test, another one replaces it."""


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


def run(block: CodeBlock, text: str, directory: Path, environment: Mapping[str, str]) -> str:
    """Run the text of a script and return its output."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    variables = {**environment, "PATH": path, "API_PASSWORD": "a password"}
    return run_script(text, directory, variables, place=block.place)


def asks(block: CodeBlock) -> bool:
    """Return whether a script sends requests to the service."""
    return SERVICE in block.text


def with_service(block: CodeBlock, stack: Stack, password: str) -> str:
    """Return the text of a script with the address of the service and a password of the test."""
    address = stack.url
    return block.text.replace(SERVICE, address).replace(PASSWORD, password)


@pytest.mark.parametrize("block", [each for each in scripts() if asks(each)], ids=place)
def test_scripts_with_requests_run(
    block: CodeBlock, directory: Path, shared_stack: Stack, password: str
) -> None:
    text = with_service(block, shared_stack, password)
    output = run(block, text, directory, environment_with({}))
    assert '"error"' not in output
    assert re.search(r"object\(s\) created|acknowledged|65 imported", output)


@pytest.mark.parametrize("block", [each for each in scripts() if not asks(each)], ids=place)
def test_scripts_of_documents_run(
    block: CodeBlock, directory: Path, environment: dict[str, str]
) -> None:
    output = run(block, block.text, directory, environment)
    assert '"error"' not in output
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
    """Return whether a Python script needs nothing but Python, the client, pandas and plots."""
    others = {"iot_sensor_client", "pandas", "matplotlib"}
    return imported(block.text) <= {*sys.stdlib_module_names, *others}


_PYPLOT = """
from pathlib import Path
def plot(x, y, *_, **__): Path({drawn!r}).write_text(str(list(y)))
def ylabel(_): pass
def legend(): pass
def show(): pass
"""
"""Instead of matplotlib, which tests do not need otherwise: it notes what is drawn."""


PYTHON = [block for block in code_blocks("python") if runs_here(block)]


def test_some_scripts_need_other_packages() -> None:
    """Their syntax is checked; they need a broker or a board."""
    others = [block.place for block in code_blocks("python") if not runs_here(block)]
    assert PYTHON
    assert others


@pytest.mark.parametrize("block", PYTHON, ids=place)
def test_python_of_documents_runs(
    block: CodeBlock, shared_stack: Stack, password: str, tmp_path: Path
) -> None:
    text = with_service(block, shared_stack, password).replace('"demo"', f'"{password}"')
    with Client(shared_stack.url, password) as client:
        client.put_readings([{"freeform": {"epc96": "a1", "rssi": -61}}])
        wait_until(client.read, what="the reading")
    drawn = tmp_path / "drawn"
    (tmp_path / "matplotlib").mkdir()
    # Without this file, an installed matplotlib (`make bench`) would be imported instead.
    (tmp_path / "matplotlib/__init__.py").touch()
    (tmp_path / "matplotlib/pyplot.py").write_text(_PYPLOT.format(drawn=str(drawn)))
    done = subprocess.run(
        [sys.executable, "-c", text],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, f"{block.place}\n{done.stderr}"
    if "matplotlib" in imported(block.text):
        assert drawn.read_text() == "[-61]"


@pytest.mark.parametrize("block", code_blocks("sql"), ids=place)
def test_sql_of_documents_runs(block: CodeBlock, postgres_url: str) -> None:
    with psycopg.connect(postgres_url) as connection:
        connection.execute(block.text.encode())


def test_other_tests_run_the_rest() -> None:
    found = {block.text for block in code_blocks("sh")}
    for text, test in TESTED_ELSEWHERE.items():
        assert text in found
        assert (ROOT / test).exists()
