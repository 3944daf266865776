"""A running service for the tests of import and export; each test uses passwords of its own."""

from collections.abc import Callable
from pathlib import Path

import pytest

from iot_tools.cli.main import main
from support.stack import Stack

LEGACY_FILE = Path(__file__).parents[2] / "fixtures" / "legacy" / "encpassword.db"
LEGACY_PASSWORD = "encpassword"
LEGACY_READINGS = 65

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def service(module_stack: Stack) -> Stack:
    """The service."""
    return module_stack


@pytest.fixture
def command(
    service: Stack, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Command:
    """A function that runs `iot-sensor` for a password; returns status, stdout and stderr."""

    def run(name: str, *arguments: object, password: str = LEGACY_PASSWORD) -> tuple[int, str, str]:
        monkeypatch.setenv("IOT_PASSWORD", password)
        capsys.readouterr()
        url = service.url
        status = main([name, *map(str, arguments), "--url", url])
        said = capsys.readouterr()
        return status, said.out, said.err

    return run
