"""The code blocks that documents label `sh` and `sql` work as they are printed."""

import os
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
        assert "1 object(s) created" in output or "1 reading acknowledged" in output
    if block.text.startswith("sed -i"):
        original = (ROOT / "charts/iot-sensor/production/redis-users.acl").read_text("utf-8")
        assert (directory / "users.acl").read_text(encoding="utf-8") != original


@pytest.mark.parametrize("block", code_blocks("sql"), ids=place)
def test_sql_of_documents_runs(block: CodeBlock, postgres_url: str) -> None:
    with psycopg.connect(postgres_url) as connection:
        connection.execute(block.text.encode())


def test_other_tests_run_the_rest() -> None:
    found = {block.text for block in code_blocks("sh")}
    for text, test in TESTED_ELSEWHERE.items():
        assert text in found
        assert (ROOT / test).exists()
