"""Months of UTC as the bounds of partitions, in Unix milliseconds."""

from datetime import UTC, datetime

DAY_MS = 86_400_000
"""A day of UTC."""
END_MS = 253_399_622_400_000
"""The begin of December 9999: a month needs the begin of the next one, and `datetime` ends with the
year 9999."""


def month_begin(milliseconds: int) -> int:
    """The begin of the month in which a moment lies."""
    moment = datetime.fromtimestamp(milliseconds // 1000, UTC)
    return _milliseconds(moment.year, moment.month)


def next_month(begin: int) -> int:
    """The begin of the month after the one that begins at `begin`."""
    moment = datetime.fromtimestamp(begin // 1000, UTC)
    years, month = divmod(moment.month, 12)
    return _milliseconds(moment.year + years, month + 1)


def month_name(begin: int) -> str:
    """Year and month, like `202611`."""
    return datetime.fromtimestamp(begin // 1000, UTC).strftime("%Y%m")


def parse_month(name: str) -> int:
    """The begin of the month that `month_name` names so."""
    return _milliseconds(int(name[:4]), int(name[4:]))


def _milliseconds(year: int, month: int) -> int:
    return int(datetime(year, month, 1, tzinfo=UTC).timestamp()) * 1000
