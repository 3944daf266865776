"""Fixtures of the tests of the writer."""

from collections.abc import Iterator

import pytest

from integration.writer.sending import Sender, sending
from iot_models.settings import Settings


@pytest.fixture
def sender(settings: Settings) -> Iterator[Sender]:
    """A `Sender` on the empty stores."""
    with sending(settings) as made:
        yield made


@pytest.fixture
def command_environment(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `main` of `iot-sensor` use the stores of the test."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
