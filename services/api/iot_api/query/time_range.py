"""The range of absolute time of a read: `from`, `to` and `by`."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from enum import StrEnum

from iot_models.errors import InvalidRequestError
from iot_models.reading import INT64_MAX
from iot_models.times import parse_time_or_date
from iot_stores.history import ReadFilter

_MILLISECONDS = re.compile(r"-?[0-9]{1,19}(\.[0-9]{1,9})?")
_RFC_3339 = re.compile(
    r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[-+ ]\d\d:\d\d)?", re.ASCII
)
_FIRST, _LAST = -62_135_596_800_000_000, 253_402_300_800_000_000
"""Start of year 1 and end of year 9999, in µs since 1970. `datetime` has no other years."""


class TimeOf(StrEnum):
    """Which time of a reading must be in the range."""

    RECEIVED = "received"
    """The time of receipt, in ms."""
    INTERROGATOR = "interrogator"
    """The interrogator timestamp, in µs since 1970."""


@dataclass(frozen=True, slots=True)
class TimeRange:
    """A range of absolute time: from `begin` on, and before `end`, in µs since 1970."""

    by: TimeOf = TimeOf.RECEIVED
    begin: int | None = None
    end: int | None = None

    @property
    def name(self) -> str:
        """The range as text, for cursors and the audit log; "" for all times."""
        if self.begin is None and self.end is None:
            return ""
        begin, end = ("" if at is None else at for at in (self.begin, self.end))
        return f" {self.by} {begin}..{end}"

    def within(self, read_filter: ReadFilter) -> ReadFilter:
        """Return the filter, limited to this range."""
        if self.by is TimeOf.INTERROGATOR:
            if self.begin is not None:
                read_filter = replace(read_filter, interrogator_low=self.begin)
            if self.end is not None:
                read_filter = replace(read_filter, interrogator_high=self.end - 1)
            return read_filter
        if self.begin is not None:
            begin = min(_milliseconds(self.begin), _LAST // 1000 - 1)
            low = max(read_filter.received_low, begin)
            read_filter = replace(read_filter, received_low=low)
        if self.end is not None:
            read_filter = replace(read_filter, received_high=_milliseconds(self.end) - 1)
        return read_filter


def parse_time_range(arguments: Mapping[str, str]) -> TimeRange:
    """Parse `from`, `to` and `by`. Without them, the range has no bounds.

    Raises:
        InvalidRequestError: an argument is malformed, or `from` is not before `to`.
    """
    by = arguments.get("by", TimeOf.RECEIVED)
    if by not in set(TimeOf):
        raise InvalidRequestError("by: must be 'received' or 'interrogator'", field="by")
    begin, end = (
        None if text is None else _moment(field, text, TimeOf(by))
        for field, text in ((field, arguments.get(field)) for field in ("from", "to"))
    )
    if begin is not None and end is not None and begin >= end:
        raise InvalidRequestError("from: must be before `to`", field="from")
    return TimeRange(TimeOf(by), begin, end)


def _moment(field: str, text: str, by: TimeOf) -> int:
    """Parse Unix milliseconds or an RFC 3339 time; return µs since 1970."""
    problem = f"{field}: must be Unix milliseconds or RFC 3339, such as 2026-11-28T07:00:00Z"
    if _MILLISECONDS.fullmatch(text):
        moment = int(Decimal(text).scaleb(3).to_integral_value("ROUND_FLOOR"))
    elif _RFC_3339.fullmatch(text):
        # A "+" that is not escaped in a URL arrives as a space.
        zone = len(text) - len("+00:00")
        if text[zone] == " ":
            text = f"{text[:zone]}+{text[zone + 1 :]}"
        try:
            moment = parse_time_or_date(text)
        except ValueError:
            raise InvalidRequestError(problem, field=field) from None
    else:
        raise InvalidRequestError(problem, field=field)
    if by is TimeOf.RECEIVED and not _FIRST <= moment < _LAST:
        raise InvalidRequestError(f"{field}: must be in the years 1 to 9999", field=field)
    if not -INT64_MAX <= moment <= INT64_MAX:
        raise InvalidRequestError(
            f"{field}: in microseconds since 1970, is beyond 64 bits", field=field
        )
    return moment


def _milliseconds(moment: int) -> int:
    """Return the first whole millisecond at or after a moment in µs."""
    return -(-moment // 1000)
