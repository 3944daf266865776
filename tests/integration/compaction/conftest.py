"""Fixtures of the compaction tests."""

from collections.abc import Iterator

import pytest

from integration.api.asking import Api
from iot_api.app import create_app
from iot_models.settings import Settings
from iot_writer.writer import Writer


@pytest.fixture
def api(settings: Settings) -> Iterator[Api]:
    """The API in this process, on the same stores."""
    app = create_app(settings)
    yield Api(app)
    app.extensions["iot"].close()


@pytest.fixture
def other_writer(settings: Settings) -> Iterator[Writer]:
    """A second writer on the same stores."""
    made = Writer(settings)
    yield made
    made.close()
