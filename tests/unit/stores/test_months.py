"""Months in UTC."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from iot_stores.months import month_begin, month_name, next_month

MOMENTS = st.integers(0, 253_402_300_799_999 - 32 * 86_400_000)


def milliseconds(*date: int) -> int:
    """Return the Unix milliseconds of a date in UTC."""
    return int(datetime(*date, tzinfo=UTC).timestamp()) * 1000  # type: ignore[misc, arg-type]


@given(MOMENTS)
def test_months_are_contiguous(moment: int) -> None:
    begin = month_begin(moment)
    end = next_month(begin)
    assert begin <= moment < end
    assert month_begin(begin) == month_begin(end - 1) == begin
    assert month_begin(end) == end
    assert timedelta(days=28) <= timedelta(milliseconds=end - begin) <= timedelta(days=31)
    assert month_name(begin) == datetime.fromtimestamp(moment // 1000, UTC).strftime("%Y%m")


def test_december_is_followed_by_january() -> None:
    december, january = milliseconds(2026, 12, 1), milliseconds(2027, 1, 1)
    assert next_month(december) == january
    assert month_begin(january - 1) == december
    assert month_begin(january) == january
    assert (month_name(december), month_name(january)) == ("202612", "202701")


def test_february_has_29_days_in_a_leap_year() -> None:
    assert next_month(milliseconds(2028, 2, 1)) - milliseconds(2028, 2, 29) == 86_400_000
