"""Parse times in the forms of old clients into whole microseconds."""

import math
import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from .reading import INT64_MAX, INT64_MIN

# Possessive quantifiers: a text that is not a number is refused in one pass, without backtracking.
_NUMBER = re.compile(r"([+-]?(?:\d++(?:\.\d*+)?|\.\d++))(?:[eE]([+-]?)(\d++))?", re.ASCII)
_MAX_EXPONENT_DIGITS = 9
"""An exponent with more digits is replaced by 999,999,999, because `Decimal` refuses exponents of
19 digits. The replacement does not change the result. If the exponent is negative, the result is
zero. If the exponent is positive, the number is zero or beyond 64 bits, which is an error. Only a
mantissa with nearly a billion digits could change the result, and no request is so long."""
_US_DATE = re.compile(
    r"(1[0-2]|0?[1-9])/(3[01]|[12]\d|[0 ]?[1-9])/(\d{4})"
    r"\s+(1[0-2]|0?[1-9]):([0-5]?\d):([0-5]?\d|60)(?:\.(\d{1,6})\d*)?\s+([ap])m",
    re.IGNORECASE,
)
"""The dates that `strptime` accepts as `%m/%d/%Y %I:%M:%S.%f %p`. The fraction may also be missing,
or have more than six digits. `strptime` is five times slower, and a request may have 100,000 dates.
"""
_SECOND = slice(len("2016-12-31T23:59:"), len("2016-12-31T23:59:60"))
"""Position of the seconds in RFC 3339."""
_LEAP = "60"
_SECONDS_PER_DAY = 86_400
_NO_DATE = "is neither a number nor a date"
_TOO_LOW, _TOO_HIGH = Decimal(INT64_MIN - 1), Decimal(INT64_MAX + 1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def parse_time(value: int | float | str) -> int:
    """Return microseconds from a number, or from a string with a number. Fractions are cut off.

    A string is parsed exactly. A float may have lost digits: pass the original text instead.

    Raises:
        ValueError: not a number, or beyond 64 bits; the message says which.
    """
    if isinstance(value, str):
        text = value.strip()
        number = _NUMBER.fullmatch(text)
        if number is None:
            raise ValueError("is not a number")
        return _whole(number)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError("is not a number")
        value = int(value)
    if not INT64_MIN <= value <= INT64_MAX:
        raise ValueError("is beyond 64 bits")
    return value


def parse_time_or_date(value: int | float | str) -> int:
    """Parse a time like `parse_time`, or a date as its microseconds since 1970 (UTC).

    Dates are RFC 3339, or `3/18/2014 10:59:19.123456 AM` (UTC), the form of old clients. Digits
    beyond microseconds are cut off. A leap second (`23:59:60`) is the first second of the next day,
    as in POSIX time.

    Raises:
        ValueError: neither a number nor a date, or beyond 64 bits.
    """
    if not isinstance(value, str):
        return parse_time(value)
    text = value.strip()
    number = _NUMBER.fullmatch(text)
    return _parse_date(text) if number is None else _whole(number)


def _whole(match: re.Match[str]) -> int:
    """Return the integer part of a match of `_NUMBER`."""
    mantissa, sign, exponent = match.groups(default="")
    exponent = exponent.lstrip("0")
    if len(exponent) > _MAX_EXPONENT_DIGITS:
        exponent = "9" * _MAX_EXPONENT_DIGITS
    # Decimal is exact. Compare before converting: 1e999999999 would become a huge integer.
    number = Decimal(f"{mantissa}e{sign}{exponent or 0}")
    if not _TOO_LOW < number < _TOO_HIGH:
        raise ValueError("is beyond 64 bits")
    return int(number)


def _parse_date(text: str) -> int:
    us = _US_DATE.fullmatch(text)
    if us is None and (len(text) < len("2014-03-18T10:59:19") or text[10] not in "Tt "):
        raise ValueError(_NO_DATE)
    second = us[6] if us else text[_SECOND]
    try:
        date = _us_date(us) if us else _iso_date(text)
    except ValueError:
        raise ValueError(_NO_DATE) from None
    since = (date.replace(tzinfo=UTC) if date.tzinfo is None else date) - _EPOCH
    if second == _LEAP:
        if since.seconds != _SECONDS_PER_DAY - 1:
            raise ValueError(_NO_DATE)
        since += timedelta(seconds=1)
    return (since.days * _SECONDS_PER_DAY + since.seconds) * 1_000_000 + since.microseconds


def _iso_date(text: str) -> datetime:
    """Parse an RFC 3339 date. If the seconds are 60 (a leap second), parse them as 59;
    `_parse_date` adds the second."""
    if text[_SECOND] == _LEAP:
        text = text[: _SECOND.start] + "59" + text[_SECOND.stop :]
    return datetime.fromisoformat(text.upper())


def _us_date(match: re.Match[str]) -> datetime:
    """Return the date of a match of `_US_DATE`. A second 60 is parsed as 59, as in `_iso_date`."""
    month, day, year, hour, minute, second, fraction, half = match.groups(default="")
    hours = int(hour) % 12 + (12 if half in "pP" else 0)
    seconds = min(int(second), 59)
    microseconds = int(fraction.ljust(6, "0"))
    return datetime(int(year), int(month), int(day), hours, int(minute), seconds, microseconds, UTC)
