"""The two forms of readings: single readings, and columns of many readings."""

import sys
from array import array
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from itertools import groupby

import msgspec

if sys.byteorder != "little":
    raise ImportError("only little-endian machines can write the stored formats")

INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1
INT64 = range(INT64_MIN, INT64_MAX + 1)
IDS = range(2**53)
"""The possible ids. Many clients read numbers as doubles, which represent these ids exactly."""
RECEIPTS = range(-62_135_596_800_000, 253_402_300_800_000)
"""The possible times of receipt in Unix milliseconds: the years 1 to 9999. `absolute_timestamp` has
no text for other times."""
MISSING_TIME = -1
"""The relative or interrogator timestamp that is stored if the sender left it out."""

SEPARATOR = b"\0"
"""Separates the `freeform` texts in a column. Valid JSON never contains this byte."""
_LONG_TEXT_BYTES = 32
"""Average length from which `count_texts` is faster with `replace` than with `count`."""


def count_texts(freeform: bytes, expected: int) -> int:
    """Return the number of texts in a column of `freeform` texts, which `SEPARATOR` separates.

    `expected` is a guess of the result. It affects only the speed.
    """
    # CPython 3.11 counts a byte in a loop over all bytes, but `replace` finds it with `memchr`. For
    # a thousand texts of usual length, `replace` takes 13 µs, and `count` 29 µs.
    if len(freeform) < _LONG_TEXT_BYTES * expected:
        return freeform.count(SEPARATOR) + 1
    return len(freeform) - len(freeform.replace(SEPARATOR, b"")) + 1


class Reading(msgspec.Struct, gc=False):
    """A reading as clients get it. The order of the fields is the order in the answer."""

    absolute_timestamp: str
    """Time of receipt: `YYYY-MM-DD HH:MM:SS`, UTC."""
    freeform: str
    """The JSON text that the device sent, in ASCII."""
    id: int
    """Unique, never changes, below 2**53. The ids of a vault rise in the order of receipt."""
    interrogator_timestamp: int
    """Interrogator timestamp, in µs."""
    relative_timestamp: int
    """Relative timestamp, in µs since the device started."""


def int64s(values: "list[int] | bytes" = b"") -> "array[int]":
    """Return an array of 64-bit integers from a list, or from little-endian bytes.

    Raises:
        TypeError, OverflowError: a value is not an integer of 64 bits.
        ValueError: the number of bytes is not a multiple of 8.
    """
    return array("q", values)


@dataclass(slots=True)
class ReadingColumns:
    """Readings of one vault in the order of receipt, as columns of equal length."""

    relative: "array[int]" = field(default_factory=int64s, repr=False)
    interrogator: "array[int]" = field(default_factory=int64s, repr=False)
    freeform: bytes = field(default=b"", repr=False)
    """The JSON texts, separated by `SEPARATOR`."""
    received: "array[int] | None" = field(default=None, repr=False)
    """Times of receipt in Unix milliseconds, if they were imported. None: readings get the time at
    which the backlog received them."""
    has_all_texts: bool = field(default=False, repr=False, compare=False)
    """True if the `freeform` texts were counted, and there is one for each reading."""

    def __len__(self) -> int:
        return len(self.relative)

    @property
    def size(self) -> int:
        """Size of the relative and interrogator timestamps and the texts, in bytes."""
        return len(self.freeform) + 16 * len(self.relative)

    def runs(self, received: int) -> "list[tuple[int, ReadingColumns]]":
        """Return runs of successive readings with the same time of receipt, as (time, readings).

        Imported readings have their own times of receipt (`self.received`). Readings that were not
        imported have none: return them as one run with the time `received`.
        """
        if self.received is None:
            return [(received, self)]
        texts, start, runs = self.freeform.split(SEPARATOR), 0, []
        for moment, run in groupby(self.received):
            part = slice(start, start + len(list(run)))
            start = part.stop
            columns = ReadingColumns(
                self.relative[part], self.interrogator[part], SEPARATOR.join(texts[part])
            )
            runs.append((moment, columns))
        return runs


@lru_cache(maxsize=4096)
def absolute_timestamp(seconds: int) -> str:
    """Return Unix `seconds` in the form for clients: `YYYY-MM-DD HH:MM:SS`, UTC."""
    # Not strftime: on Linux, its %Y does not pad years before 1000.
    return datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None).isoformat(" ")
