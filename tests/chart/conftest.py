"""The chart, rendered with each set of values."""

import pytest

from chart.matrix import MATRIX
from chart.release import Release
from chart.rendering import rendered
from chart.schemas import NEWEST


@pytest.fixture(params=MATRIX)
def release(request: pytest.FixtureRequest) -> Release:
    """What a set of values renders to on the newest Kubernetes."""
    return rendered(request.param, NEWEST)
