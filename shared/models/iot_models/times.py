"""The forms in which the old clients send times, read into whole microseconds."""

import math
import re
from datetime import UTC, datetime
from decimal import Decimal

from .reading import INT64_MAX, INT64_MIN

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,6})?", re.ASCII)
_US_DATE = re.compile(
    r"(1[0-2]|0?[1-9])/(3[01]|[12]\d|[0 ]?[1-9])/(\d{4})"
    r"\s+(1[0-2]|0?[1-9]):([0-5]?\d):([0-5]?\d)(?:\.(\d{1,6}))?\s+([ap])m",
    re.IGNORECASE,
)
"""What `strptime` takes as `%m/%d/%Y %I:%M:%S.%f %p`, with or without the fraction. A request may
hold 100,000 dates, and `strptime` takes five times as long."""
_TOO_LOW, _TOO_HIGH = Decimal(INT64_MIN - 1), Decimal(INT64_MAX + 1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def parse_time(value: int | float | str) -> int:
    """Microseconds from an integer, a number with a fraction (cut off), or either as a string.

    Raises:
        ValueError: not a number, or beyond 64 bits; the message says which.
    """
    if isinstance(value, str):
        text = value.strip()
        if not _NUMBER.fullmatch(text):
            raise ValueError("is not a number")
        return _whole(text)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError("is not a number")
        value = int(value)
    if not INT64_MIN <= value <= INT64_MAX:
        raise ValueError("is beyond 64 bits")
    return value


def parse_time_or_date(value: int | float | str) -> int:
    """Like `parse_time`; a string may be a date too, then it is microseconds since 1970 (UTC).

    Dates are `3/18/2014 10:59:19.123456 AM` (UTC), as the old clients write them, and RFC 3339.

    Raises:
        ValueError: neither a number nor a date, or beyond 64 bits.
    """
    if not isinstance(value, str):
        return parse_time(value)
    text = value.strip()
    if _NUMBER.fullmatch(text):
        return _whole(text)
    date = _parse_date(text)
    since = date - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def _whole(text: str) -> int:
    """The whole part of a number that `_NUMBER` matches."""
    number = Decimal(text)  # exact, and compared before it becomes a whole number of any length
    if not _TOO_LOW < number < _TOO_HIGH:
        raise ValueError("is beyond 64 bits")
    return int(number)


def _parse_date(text: str) -> datetime:
    us = _US_DATE.fullmatch(text)
    if us is None and (len(text) < len("2014-03-18T10:59:19") or text[10] not in "Tt "):
        raise ValueError("is neither a number nor a date")
    try:
        date = datetime.fromisoformat(text.upper()) if us is None else _us_date(us)
    except ValueError:
        raise ValueError("is neither a number nor a date") from None
    return date.replace(tzinfo=UTC) if date.tzinfo is None else date


def _us_date(match: re.Match[str]) -> datetime:
    month, day, year, hour, minute, second, fraction, half = match.groups(default="")
    hours = int(hour) % 12 + (12 if half in "pP" else 0)
    microseconds = int(fraction.ljust(6, "0"))
    return datetime(
        int(year), int(month), int(day), hours, int(minute), int(second), microseconds, UTC
    )
