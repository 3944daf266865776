"""Fixtures that run the commands against the real service."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from iot_cipher.tokens import new_tokens_text, with_token
from support.environment import environment_without_settings

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start() -> Iterator[Start]:
    """A function that starts `iot-sensor` as a process. Processes are killed after the test."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str, **environment: str) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "iot_tools", *arguments],
            env=environment_without_settings() | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def token_files(tmp_path: Path) -> dict[str, Path]:
    """Paths by name: a tokens.json under `tokens`, and one file for each of its tokens."""
    text = new_tokens_text()
    files = {"tokens": tmp_path / "tokens.json"}
    scopes = {"probe": ["ingest", "read"], "ingests": ["ingest"], "reads": ["read"]}
    for name, granted in scopes.items():
        text, token = with_token(text, name, granted)
        files[name] = tmp_path / name
        files[name].write_text(token)
    files["tokens"].write_text(text)
    return files
