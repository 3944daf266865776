"""What the tests of compaction share."""

from collections.abc import Iterator

import pytest

from integration.compaction.past import Past
from integration.writer.sending import sending
from iot_models.settings import Settings
from iot_writer.writer import Writer


@pytest.fixture
def past(settings: Settings, writer: Writer) -> Iterator[Past]:
    """Empty stores, to be filled with what was received long ago."""
    with sending(settings) as sender:
        yield Past(sender, writer)
