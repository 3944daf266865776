"""The page count of a query does not grow with data that the query excludes."""

from collections.abc import Callable

import pytest

from integration.growth.conftest import SHAPES, Histories
from integration.growth.histories import ASKED, spread
from integration.growth.touched import Touched, touching
from iot_stores import history
from iot_stores.history import PageRange, ReadFilter
from iot_stores.postgres import Connection

A_SEARCH = 3
"""Pages from the root of an index to a row, in a month of this size."""


def _begin(segments: history.Segments, count: int) -> None:
    """Read some segments, like a client that disconnects early."""
    for _ in range(count):
        next(segments, None)
    segments.close()


def _latest(connection: Connection) -> Touched:
    with touching(connection) as touched:
        _begin(history.select(connection, ASKED, ReadFilter(), PageRange(descending=True)), 4)
    return touched


def _all(connection: Connection) -> Touched:
    with touching(connection) as touched:
        _begin(history.select(connection, ASKED, ReadFilter()), 4)
    return touched


def _window(connection: Connection) -> Touched:
    """Read a window as wide as ten segments of the base shape."""
    low, high = spread(connection)
    begin, width = (low + high) // 2, (high - low) // 20 // SHAPES["base"].months
    with touching(connection) as touched:
        found = list(history.select(connection, ASKED, ReadFilter(begin, begin + width)))
    assert found
    return touched


def _last_minutes(connection: Connection) -> Touched:
    end = connection.execute(
        "SELECT max(received_max) FROM segments WHERE vault_id = %s", (ASKED,)
    ).fetchone()
    assert end is not None
    assert isinstance(end[0], int)
    with touching(connection) as touched:
        found = list(history.select(connection, ASKED, ReadFilter(received_low=end[0] - 1_200_000)))
    assert len(found) == 1
    return touched


def _maxtime(connection: Connection) -> Touched:
    with touching(connection) as touched:
        assert history.max_relative_timestamp(connection) is not None
    return touched


def _vault_maxtime(connection: Connection) -> Touched:
    """Read the newest time of a vault whose clock is behind most other clocks."""
    with touching(connection) as touched:
        found = history.max_relative_timestamp(connection, ASKED)
    assert found == spread(connection)[1]
    return touched


Ask = Callable[[Connection], Touched]


@pytest.mark.parametrize("ask", [_latest, _all, _maxtime, _vault_maxtime])
def test_a_query_costs_one_search_per_month(ask: Ask, history_of: Histories) -> None:
    for shape in SHAPES:
        ask(history_of(shape))  # now the connection has cached the tables
        touched = ask(history_of(shape))
        months = SHAPES[shape].months
        assert len(touched.partitions) == months
        assert touched.scanned == set()
        assert touched.pages <= (A_SEARCH + 1) * months, shape


def test_recent_readings_are_searched_in_one_month(history_of: Histories) -> None:
    for shape in SHAPES:
        touched = _last_minutes(history_of(shape))
        assert len(touched.partitions) == 1
        assert touched.pages <= A_SEARCH + 2, shape


def test_a_window_costs_only_its_rows(history_of: Histories) -> None:
    """Segments of other vaults and segments outside of the window cost nothing."""
    for shape in ("others", "months", "new"):
        touched = _window(history_of(shape))
        each = SHAPES[shape]
        rows = each.segments * each.months // 20 // SHAPES["base"].months + 2
        # The index scan skips entries behind the window, some hundred a page.
        passed = each.segments * each.months // 100
        assert touched.pages <= A_SEARCH * each.months + rows + passed, shape
