"""Readings on their way into a live stream, and the position of a listener that has them."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from iot_cipher.encryption import OpenVault, SealedSegment, decrypt_segment
from iot_models.errors import DecryptionError, FormatError
from iot_models.reading import Reading
from iot_models.segment import ID_STRIDE, SegmentColumns, decode_segment
from iot_stores.history import StoredSegment, note_damaged

from .position import LivePosition


@dataclass(frozen=True, slots=True)
class Skipped:
    """Readings that a listener does not get: a summary event gives their number and times.

    Reason: the listener is too slow or too far behind, or the readings' segment is damaged.
    """

    count: int
    begin: int
    """Earliest time of receipt, in Unix milliseconds."""
    end: int
    """Latest time of receipt, in Unix milliseconds."""


@dataclass(slots=True)
class LiveRows:
    """Readings in the order of their ids, and the position of a listener that has received them."""

    position: LivePosition
    readings: list[Reading] = field(default_factory=list)
    received: list[int] = field(default_factory=list)
    """Times of receipt of the readings, in Unix milliseconds."""
    skipped: Skipped | None = None
    """Readings that are left out. Their summary comes before `readings`."""

    def behind(self, position: LivePosition) -> "LiveRows":
        """Return the readings that a listener at `position` lacks."""
        indices = [
            index
            for index, reading in enumerate(self.readings)
            if reading.id > position.id_of(reading.id % ID_STRIDE)
        ]
        return LiveRows(
            self.position.advanced(position.ids),
            [self.readings[index] for index in indices],
            [self.received[index] for index in indices],
            self.skipped,
        )


def rows_of_segment(
    vault: OpenVault, segment: SealedSegment, after: LivePosition, until: LivePosition | None
) -> LiveRows:
    """Return the readings of a segment behind `after` and up to `until`, in the order of ids.

    If the segment is damaged, return its readings as skipped: an error would end the stream at this
    segment each time the client resumes.
    """
    bounds = segment.bounds
    payload: bytes | bytearray = segment.payload
    try:
        if isinstance(segment, StoredSegment):
            payload = segment.fetch()
        columns = decode_segment(bounds, decrypt_segment(vault, bounds, payload))
    except (DecryptionError, FormatError):
        note_damaged(vault.vault_id, bounds)
        skipped = Skipped(bounds.count, bounds.received_min, bounds.received_max)
        last = bounds.last_id if until is None else min(bounds.last_id, until.id_of(bounds.shard))
        return LiveRows(after.advanced({bounds.shard: last}), skipped=skipped)
    return _behind(columns, after, until)


def merge_rows(parts: Sequence[LiveRows], after: LivePosition) -> LiveRows:
    """Merge `parts`, the readings of segments behind the position `after`, in the order of ids.

    Merging is necessary because the ids of segments may overlap.
    """
    position, skipped = after, [part.skipped for part in parts if part.skipped is not None]
    for part in parts:
        position = position.advanced(part.position.ids)
    rows = [row for part in parts for row in zip(part.readings, part.received, strict=True)]
    rows.sort(key=lambda row: row[0].id)
    merged = LiveRows(position, [reading for reading, _ in rows], [time for _, time in rows])
    if skipped:
        begin, end = min(each.begin for each in skipped), max(each.end for each in skipped)
        merged.skipped = Skipped(sum(each.count for each in skipped), begin, end)
    return merged


def _behind(columns: SegmentColumns, after: LivePosition, until: LivePosition | None) -> LiveRows:
    ids, received = columns.ids, columns.received
    indices = [
        index
        for index in sorted(range(len(ids)), key=ids.__getitem__)
        if after.id_of(ids[index] % ID_STRIDE) < ids[index]
        and (until is None or ids[index] <= until.id_of(ids[index] % ID_STRIDE))
        and received[index] >= after.since
    ]
    texts = list(columns.freeform)
    chosen = SegmentColumns(
        [ids[index] for index in indices],
        [received[index] for index in indices],
        [columns.relative[index] for index in indices],
        [columns.interrogator[index] for index in indices],
        [texts[index] for index in indices],
    )
    last_ids: dict[int, int] = {}
    for number in chosen.ids:
        last_ids[number % ID_STRIDE] = number
    return LiveRows(after.advanced(last_ids), chosen.readings(), list(chosen.received))
