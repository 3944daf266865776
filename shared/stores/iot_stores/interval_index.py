"""Finding the segments in which a position lies, whatever the size of a vault.

Readings stand at positions (interrogator timestamp, id). A segment reaches from its first to its
last, and segments overlap as they like: a device's clock jumps, two devices differ. An index by
begin or by end alone finds those that hold a position only by going through half of the vault. So
segments are indexed by how far they reach, in steps of 256 times, and then by begin: one that
reaches less than 2**16 and holds a position begins less than 2**16 before it, and so on.
"""

from typing import LiteralString

from iot_models.reading import INT64_MIN

Position = tuple[int, int]
"""Interrogator timestamp and id of a reading: where it stands."""

_ID_BITS = 53
"""Ids are below 2**53, so a position is a number: the time's multiple of that, and the id."""
_STEPS = (16, 24, 32, 53, 61, 69, 77, 85, 93, 101, 109)
"""Powers of two: where the classes of reach begin but the first. Times differ from 2**53 on."""

# As in the index `segments_reach`; a segment of one reading reaches nowhere and is not in it.
REACH: LiteralString = """width_bucket(
    (interrogator_max::numeric - interrogator_min) * 9007199254740992 + (last_id - first_id),
    '{65536, 16777216, 4294967296, 9007199254740992, 2305843009213693952, 590295810358705651712,
      151115727451828646838272, 38685626227668133590597632, 9903520314283042199192993792,
      2535301200456458802993406410752, 649037107316853453566312041152512}'::numeric[])"""


def probes(position: Position) -> tuple[list[int], list[int], list[int]]:
    """Per class of reach: its number, and the first position (time, id) from which it gets here."""
    here = (position[0] << _ID_BITS) + position[1]
    begins = [here - 2**bits for bits in _STEPS]
    times = [max(INT64_MIN, begin >> _ID_BITS) for begin in begins]
    ids = [begin % 2**_ID_BITS for begin in begins]
    return list(range(len(_STEPS) + 1)), [*times, INT64_MIN], [*ids, 0]
