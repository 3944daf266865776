"""An API server, and commands that use it."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from iot_tools.cli.main import main


@dataclass(frozen=True)
class Said:
    """Exit code and output of a command."""

    code: int
    out: str
    err: str


Run = Callable[..., Said]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> Run:
    """A function that runs `iot-sensor` in this process."""

    def run(*arguments: str) -> Said:
        capsys.readouterr()
        caplog.clear()
        with caplog.at_level("INFO"):
            code = main(arguments)
        captured = capsys.readouterr()
        return Said(code, captured.out + caplog.text, captured.err)

    return run
