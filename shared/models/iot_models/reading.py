"""A reading, and many of them as columns: the two forms in which readings travel."""

import sys
from array import array
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache

import msgspec

if sys.byteorder != "little":
    raise ImportError("the stored formats are written on little-endian machines only")

INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1
MISSING_TIME = -1
"""What a time is when the sender left it out."""

SEPARATOR = b"\0"
"""Stands between the `freeform` texts of a batch: valid JSON never holds this byte."""


class Reading(msgspec.Struct, gc=False):
    """A reading as it is given back, its fields in the order in which clients get them."""

    absolute_timestamp: str
    """When it was received: `YYYY-MM-DD HH:MM:SS`, UTC."""
    freeform: str
    """The JSON text of what was sent, in ASCII."""
    id: int
    """Unique, never changes, below 2**53; grows in the order of receipt."""
    interrogator_timestamp: int
    """Microseconds, as the sender's interrogator tells them."""
    relative_timestamp: int
    """Microseconds since the sender started."""


def int64s(values: "list[int] | bytes" = b"") -> "array[int]":
    """An array of 64-bit integers from a list, or from little-endian bytes.

    Raises:
        TypeError, OverflowError: a value is no integer of 64 bits.
        ValueError: the bytes are no whole number of integers.
    """
    return array("q", values)


@dataclass(slots=True)
class ReadingColumns:
    """Readings of one vault in the order of their arrival; all columns are of one length."""

    relative: "array[int]" = field(default_factory=int64s, repr=False)
    interrogator: "array[int]" = field(default_factory=int64s, repr=False)
    freeform: bytes = field(default=b"", repr=False)
    """The JSON texts with `SEPARATOR` between them."""

    def __len__(self) -> int:
        return len(self.relative)


@lru_cache(maxsize=4096)
def absolute_timestamp(seconds: int) -> str:
    """Unix `seconds` as clients get them: `YYYY-MM-DD HH:MM:SS`, UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")
