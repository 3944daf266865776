"""Original times of receipt of imported readings: `absolute_timestamp` in rows (docs/adr/0025)."""

import time
from array import array
from collections.abc import Sequence
from functools import lru_cache

import msgspec

from iot_models.errors import InvalidRequestError, TooLargeError
from iot_models.reading import absolute_timestamp, int64s
from iot_models.times import parse_time_or_date
from iot_stores.months import DAY_MS, END_MS

_DAY_SECONDS = 86_400
MAX_DAYS = 366
"""Maximum number of days (UTC) on which the readings of a request under one password were received.
The readings of each day become at least one entry in the backlog."""
_ROWS_PER_TURN = 4096
"""Rows that are parsed before other greenlets run."""
_CACHED_BYTES = 64
"""Maximum length of a cached JSON text. A client can send texts of megabytes, and the cache keeps
its keys."""
_FIELD = "absolute_timestamp"


class ImportedTimes:
    """Parses the times of receipt of imported readings.

    Refuses times in the future, and times so old that retention would delete the readings.
    """

    def __init__(self, retention_days: int, clock_skew_seconds: int) -> None:
        """A time is too old if it is before 1970, or more than `retention_days` ago (0: readings
        are kept forever). A time may be up to `clock_skew_seconds` in the future: the clock of
        the server that first received the reading may have been ahead.
        """
        self._retention_days = retention_days
        self._clock_skew_seconds = clock_skew_seconds

    def parse(self, numbers: Sequence[int], texts: Sequence[msgspec.Raw]) -> "array[int]":
        """Return the times of receipt of rows in Unix milliseconds.

        `numbers` are the numbers of the rows, for errors. `texts` are the times as JSON texts.

        Raises:
            TooLargeError: the times fall on more than `MAX_DAYS` different days.
            InvalidRequestError: a row has no valid time of receipt, or its time is too old or in
                the future. The error's members `oldest` and `latest` say which times are accepted.
        """
        days: set[int] = set()
        now = int(time.time())
        oldest = max(0, now - self._retention_days * _DAY_SECONDS) if self._retention_days else 0
        latest = min(now + self._clock_skew_seconds, END_MS // 1000 - 1)
        column = int64s()
        for position, (number, text) in enumerate(zip(numbers, texts, strict=True)):
            if position % _ROWS_PER_TURN == 0:
                time.sleep(0)
            parse = _milliseconds if len(text) <= _CACHED_BYTES else _milliseconds.__wrapped__
            moment = parse(bytes(text))
            if moment is None:
                problem = "is not a date such as 2026-11-23 06:17:23"
            elif moment < oldest * 1000:
                problem = "is before 1970-01-01"
                if oldest:
                    limit = absolute_timestamp(oldest)
                    problem = f"retention deletes readings received before {limit}"
            elif moment // 1000 > latest:
                problem = "is in the future"
            else:
                column.append(moment)
                days.add(moment // DAY_MS)
                continue
            raise InvalidRequestError(
                f"row {number}, {_FIELD}: {problem}",
                row=number,
                field=_FIELD,
                oldest=absolute_timestamp(oldest),
                latest=absolute_timestamp(latest),
            )
        if len(days) > MAX_DAYS:
            raise TooLargeError(
                f"a request may import readings received on at most {MAX_DAYS} days (UTC), this "
                f"request has readings of {len(days)} days",
                limit=MAX_DAYS,
            )
        return column


@lru_cache(maxsize=1024)
def _milliseconds(text: bytes) -> int | None:
    """Return Unix milliseconds from a date in JSON, None for anything else."""
    try:
        date = msgspec.json.decode(text, type=str).strip()
        if date[4:5] != "-" or date[7:8] != "-":  # a number, or a date with the month first
            return None
        return parse_time_or_date(date) // 1000
    except (msgspec.DecodeError, ValueError):
        return None
