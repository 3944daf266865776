"""From opened entries to encrypted segments: grouped by vault, cut where a segment must end."""

import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from iot_cipher.sealed_segment import SealedSegment, encrypt_segment
from iot_models.entry import Entry
from iot_models.segment import ID_STRIDE, encode_segment
from iot_stores.months import month_begin, next_month

MAX_READINGS = 10_000
"""Readings in a segment, about: what a read holds in memory for each segment it merges."""
MAX_FREEFORM_BYTES = 4 * 2**20
"""Bytes of `freeform` in a segment of more than one entry."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """An entry and when it was received, in Unix milliseconds."""

    received: int
    entry: Entry


def build_segments(
    arrivals: Iterable[Arrival], *, shard: int, next_id: int
) -> tuple[list[SealedSegment], int]:
    """Segments of all arrivals, which are in the order of the stream, and the next id after them.

    A vault's readings get ids that grow in the order of arrival.
    """
    segments = []
    for group in _groups(arrivals):
        first = group[0].entry
        batches = [(arrival.received, arrival.entry.readings) for arrival in group]
        bounds, content = encode_segment(batches, next_id, shard)
        vault_id = uuid.UUID(bytes=first.vault_id)
        payload = encrypt_segment(vault_id, first.salt, first.chunk_key, bounds, content)
        segments.append(SealedSegment(vault_id, bounds, payload))
        next_id = bounds.last_id + ID_STRIDE
    return segments, next_id


def _groups(arrivals: Iterable[Arrival]) -> Iterator[list[Arrival]]:
    vaults: dict[bytes, list[Arrival]] = {}
    for arrival in arrivals:
        if len(arrival.entry.readings):  # no segment is empty: one would hold up its shard for good
            vaults.setdefault(arrival.entry.vault_id, []).append(arrival)
    for of_vault in vaults.values():
        yield from _cuts(of_vault)


def _cuts(of_vault: list[Arrival]) -> Iterator[list[Arrival]]:
    group: list[Arrival] = []
    readings = size = month_end = 0
    for arrival in of_vault:
        count, added = len(arrival.entry.readings), len(arrival.entry.readings.freeform)
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
