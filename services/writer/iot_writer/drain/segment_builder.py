"""Build encrypted segments from entries: group the entries by vault, and cut the groups."""

import uuid
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from iot_cipher.encryption import Entry, SealedSegment, encrypt_segment
from iot_models.segment import ID_STRIDE
from iot_models.segment_encoding import encode_segment
from iot_stores.months import DAY_MS, month_begin, next_month

MAX_READINGS = 10_000
"""Maximum number of readings in a segment. A read holds a segment in memory to merge it."""
MAX_FREEFORM_BYTES = 4 * 2**20
"""Maximum bytes of `freeform` in a segment of several entries. An entry is never cut."""


class Arrival(NamedTuple):
    """An entry, and its time of receipt in Unix milliseconds."""

    received: int
    entry: Entry


def build_segments(
    arrivals: Iterable[Arrival], *, shard: int, next_id: int
) -> tuple[list[SealedSegment], int]:
    """Return segments with the readings of all entries, and the shard's next id after them.

    `arrivals` are in the order in which Redis received the entries. The ids of a vault's readings
    rise in this order, except that imported readings are first grouped by day.
    """
    segments = []
    for group in group_arrivals(arrivals):
        first = group[0].entry
        if first.readings.received is None:
            batches = [(received, entry.readings) for received, entry in group]
        else:
            batches = [run for received, entry in group for run in entry.readings.runs(received)]
        bounds, content = encode_segment(batches, next_id, shard)
        vault_id = uuid.UUID(bytes=first.vault_id)
        payload = encrypt_segment(vault_id, first.salt, first.chunk_key, bounds, content)
        segments.append(SealedSegment(vault_id, bounds, payload))
        next_id = bounds.last_id + ID_STRIDE
    return segments, next_id


def group_arrivals(arrivals: Iterable[Arrival]) -> Iterator[list[Arrival]]:
    """Yield the entries of each segment that `build_segments` returns, in the same order."""
    vaults: dict[bytes | tuple[bytes, int], list[Arrival]] = {}
    for arrival in arrivals:
        entry = arrival.entry
        # An entry without readings must not become a segment: it would have no bounds, and the
        # error would stop the drains of the shard for good.
        if entry.readings.relative:
            key: bytes | tuple[bytes, int] = entry.vault_id
            if entry.readings.received is not None:  # imported: all of one day
                key = entry.vault_id, entry.readings.received[0] // DAY_MS
            if key in vaults:
                vaults[key].append(arrival)
            else:
                vaults[key] = [arrival]
    for vault_arrivals in vaults.values():
        if len(vault_arrivals) == 1:
            yield vault_arrivals
        else:
            yield from _cut(vault_arrivals)


def _cut(vault_arrivals: list[Arrival]) -> Iterator[list[Arrival]]:
    """Split the entries of a vault into groups, one for each segment.

    A new group begins when the segment is full, or when a month of receipt ends.
    """
    group: list[Arrival] = []
    readings = size = month_end = 0
    for arrival in vault_arrivals:
        columns = arrival.entry.readings
        count, added = len(columns.relative), len(columns.freeform)
        too_large = readings + count > MAX_READINGS or size + added > MAX_FREEFORM_BYTES
        if group and (too_large or arrival.received >= month_end):
            yield group
            group, readings, size = [], 0, 0
        if not group:
            month_end = next_month(month_begin(arrival.received))
        group.append(arrival)
        readings += count
        size += added
    yield group
