"""Aggregates of a window."""

import pytest

from iot_api.query.series_query import Aggregate
from iot_api.query.window_aggregates import new_window


@pytest.mark.parametrize("parts", [[[1e200, 1e200]], [[-1e300], [-1e300, -1e300]]])
def test_equal_values_of_any_size_have_no_deviation(parts: list[list[float]]) -> None:
    window = new_window(Aggregate.STDEV)
    for part in parts:
        window.add(part)
    assert window.result() == 0
