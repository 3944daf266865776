"""Merging segments whose times overlap into one stream in order, in bounded memory."""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from operator import attrgetter

from iot_cipher.sealed_segment import SealedSegment
from iot_models.reading import Reading

BATCH = 4096
"""Readings handed on at a time, about."""

order = attrgetter("interrogator_timestamp", "id")


def merge(
    segments: Iterable[SealedSegment], open_segment: Callable[[SealedSegment], list[Reading]]
) -> Iterator[list[Reading]]:
    """The readings of all segments by (interrogator timestamp, id), in batches.

    `segments` come by (interrogator_min, first_id), so whatever lies below the next one's begin
    is complete. Held in memory are the readings of the segments that overlap the place one is at.
    """
    held: list[Reading] = []
    sorted_so_far = True
    enough = BATCH
    for segment in segments:
        if len(held) >= enough:
            if not sorted_so_far:
                held.sort(key=order)
                sorted_so_far = True
            begin = (segment.bounds.interrogator_min, segment.bounds.first_id)
            complete = bisect_left(held, begin, key=order)
            if complete:
                yield held[:complete]
                held = held[complete:]
            # Sorting again pays once as much as was left has come in addition.
            enough = max(BATCH, 2 * len(held))
        readings = open_segment(segment)
        if held and readings and order(readings[0]) < order(held[-1]):
            sorted_so_far = False
        held += readings
    if held:
        yield held if sorted_so_far else sorted(held, key=order)
