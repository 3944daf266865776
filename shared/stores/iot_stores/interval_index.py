"""An index of intervals: find the segments that contain a position, in vaults of any size.

A reading has the position (interrogator timestamp, id). A segment is an interval of positions, and
segments may overlap in any way, since device clocks jump and differ. With an index by start or by
end alone, a search for the segments that contain a position reads half of the vault. So segments
are indexed by the class of their length (`_STEPS`), and within a class by start. For example, a
segment shorter than 2**16 begins less than 2**16 before each position that it contains.
"""

from typing import LiteralString

from iot_models.reading import INT64_MIN

Position = tuple[int, int]
"""Interrogator timestamp and id of a reading."""

_ID_BITS = 53
"""Ids are below 2**53, so a position is also one number: time * 2**53 + id."""
_STEPS = (16, 24, 32, 53, 61, 69, 77, 85, 93, 101, 109)
"""Lower bounds of the classes of length, as exponents of two. The first class has no lower bound.

The length of a segment is its last position minus its first position, both as numbers (`_ID_BITS`).
A difference of 1 between interrogator timestamps is a length of 2**53. So the exponents from 53 on
are steps of time, and the smaller exponents are steps of ids."""

# As in the index `segments_reach`. A segment of one reading has length 0 and is not in the index.
REACH: LiteralString = """width_bucket(
    (interrogator_max::numeric - interrogator_min) * 9007199254740992 + (last_id - first_id),
    '{65536, 16777216, 4294967296, 9007199254740992, 2305843009213693952, 590295810358705651712,
      151115727451828646838272, 38685626227668133590597632, 9903520314283042199192993792,
      2535301200456458802993406410752, 649037107316853453566312041152512}'::numeric[])"""


def probes(position: Position) -> tuple[list[int], list[int], list[int]]:
    """Return, for each class of length, the earliest possible start of a segment that contains
    `position`.

    The result is three lists with one item for each class: the number of the class, and the time
    and the id of the start.
    """
    here = (position[0] << _ID_BITS) + position[1]
    lowest = INT64_MIN << _ID_BITS
    begins = [*(max(lowest, here - 2**bits) for bits in _STEPS), lowest]
    times = [begin >> _ID_BITS for begin in begins]
    ids = [begin % 2**_ID_BITS for begin in begins]
    return list(range(len(begins))), times, ids
