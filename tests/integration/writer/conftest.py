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
