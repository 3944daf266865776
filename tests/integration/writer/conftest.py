"""Fixtures of the tests of the writer."""

import pytest


@pytest.fixture
def command_environment(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `main` of `iot-sensor` use the stores of the test."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
