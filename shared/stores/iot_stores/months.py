"""Months in UTC: the history has one partition per month. All times are Unix milliseconds."""

from datetime import UTC, datetime

DAY_MS = 86_400_000
END_MS = 253_399_622_400_000
"""Start of December 9999. Readings must be received before this time: the partition of a month ends
where the next month begins, and `datetime` has no month after December 9999."""


def month_begin(milliseconds: int) -> int:
    """Return the start of the month that contains a time."""
    moment = datetime.fromtimestamp(milliseconds // 1000, UTC)
    return _milliseconds(moment.year, moment.month)


def next_month(begin: int) -> int:
    """Return the start of the next month after the month that begins at `begin`."""
    moment = datetime.fromtimestamp(begin // 1000, UTC)
    years, month = divmod(moment.month, 12)
    return _milliseconds(moment.year + years, month + 1)


def month_name(begin: int) -> str:
    """Return year and month, such as `202611`."""
    return datetime.fromtimestamp(begin // 1000, UTC).strftime("%Y%m")


def parse_month(name: str) -> int:
    """Return the start of the month whose `month_name` is `name`."""
    return _milliseconds(int(name[:4]), int(name[4:]))


def _milliseconds(year: int, month: int) -> int:
    return int(datetime(year, month, 1, tzinfo=UTC).timestamp()) * 1000
