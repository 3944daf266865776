"""The encoding of segments: those of a drain, and merged ones."""

import threading
from array import array
from collections.abc import Sequence
from itertools import pairwise, starmap
from operator import le, sub

import zstandard

from .errors import FormatError
from .reading import SEPARATOR, ReadingColumns
from .segment import (
    ARRIVAL,
    COUNTS,
    DELTA,
    ID_STRIDE,
    MERGED,
    MERGED_ALONE,
    MERGED_LEVEL,
    RAW,
    RUN,
    SEGMENT_LEVEL,
    SORTED,
    SegmentBounds,
    SegmentColumns,
    compress,
)

_MAX_WINDOW = 2**23
"""Twice the largest window that the levels above use."""


class _Contexts(threading.local):
    def __init__(self) -> None:
        self.small_window = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW)


_contexts = _Contexts()


def encode_segment(
    batches: Sequence[tuple[int, ReadingColumns]], first_id: int, shard: int
) -> tuple[SegmentBounds, bytes]:
    """Return the bounds and the content of a segment with the readings of `batches`.

    A batch is (time of receipt, readings). The batches are in the order of receipt, and there is at
    least one reading. Ids are `first_id`, `first_id + ID_STRIDE`, ... in this order.

    Raises:
        FormatError: the columns differ in length. Such a segment could never be decoded.
    """
    if len(batches) == 1 and len(batches[0][1].relative) == 1:
        return _encode_one(*batches[0], first_id, shard)
    batches = [(received, readings) for received, readings in batches if readings.relative]
    # Joined as bytes: adding arrays one by one costs more for entries of one reading.
    relative = array("q", b"".join([readings.relative for _, readings in batches]))
    interrogator = array("q", b"".join([readings.interrogator for _, readings in batches]))
    freeform = SEPARATOR.join([readings.freeform for _, readings in batches])
    runs = [(received, len(readings.relative)) for received, readings in batches]
    times = [received for received, _ in runs]
    count = len(relative)
    if not count == len(interrogator) == freeform.count(SEPARATOR) + 1:
        raise FormatError("the segment's columns differ in length")
    bounds = SegmentBounds(
        first_id, first_id + (count - 1) * ID_STRIDE,
        min(times), max(times),
        min(relative), max(relative), min(interrogator), max(interrogator),
        shard, count,
    )  # fmt: skip
    order = _order(interrogator)
    if order is None:
        head = COUNTS.pack(ARRIVAL, count, len(runs))
        offsets = b""
    else:
        head = COUNTS.pack(SORTED, count, len(runs))
        offsets = array("I", order).tobytes()
        relative = array("q", map(relative.__getitem__, order))
        interrogator = array("q", map(interrogator.__getitem__, order))
        freeform = SEPARATOR.join(map(freeform.split(SEPARATOR).__getitem__, order))
    content = b"".join(
        (head, *starmap(RUN.pack, runs), offsets, _pack(relative), _pack(interrogator), freeform)
    )
    return bounds, compress(content, SEGMENT_LEVEL)


def _encode_one(
    received: int, readings: ReadingColumns, first_id: int, shard: int
) -> tuple[SegmentBounds, bytes]:
    """Return what `encode_segment` returns for one reading, in a third of the time."""
    if len(readings.interrogator) != 1 or SEPARATOR in readings.freeform:
        raise FormatError("the segment's columns differ in length")
    (relative,), (interrogator,) = readings.relative, readings.interrogator
    bounds = SegmentBounds(
        first_id, first_id, received, received, relative, relative, interrogator, interrogator,
        shard, 1,
    )  # fmt: skip
    content = b"".join(
        (
            COUNTS.pack(ARRIVAL, 1, 1), RUN.pack(received, 1),
            DELTA, readings.relative.tobytes(), DELTA, readings.interrogator.tobytes(),
            readings.freeform,
        )
    )  # fmt: skip
    return bounds, compress(content, SEGMENT_LEVEL)


def _order(interrogator: "array[int]") -> list[int] | None:
    """Return the positions, sorted by (interrogator timestamp, id); None if already sorted."""
    if all(starmap(le, pairwise(interrogator))):
        return None
    return sorted(range(len(interrogator)), key=interrogator.__getitem__)


def _pack(column: "array[int]") -> bytes:
    try:
        deltas = array("q", column[:1])
        deltas.extend(map(sub, column[1:], column))
        how, data = DELTA, deltas.tobytes()
    except OverflowError:  # a difference does not fit in 64 bits
        how, data = RAW, column.tobytes()
    return how + b"".join(data[i::8] for i in range(8))


def encode_merged(
    columns: SegmentColumns, shard: int, *, key_shared: bool = False
) -> tuple[SegmentBounds, bytes]:
    """Return the bounds and the content of a merged segment.

    The readings have ids, are ordered by (interrogator timestamp, id), and there is at least one.
    `key_shared`: the segment's key encrypts other segments too.

    Raises:
        FormatError: the columns differ in length. Such a segment could never be decoded.
    """
    ids, received = array("q", columns.ids), array("q", columns.received)
    relative, interrogator = array("q", columns.relative), array("q", columns.interrogator)
    freeform = SEPARATOR.join(text.encode("ascii") for text in columns.freeform)
    count = len(ids)
    lengths = {len(received), len(relative), len(interrogator), freeform.count(SEPARATOR) + 1}
    if lengths != {count}:
        raise FormatError("the segment's columns differ in length")
    bounds = SegmentBounds(
        min(ids), max(ids), min(received), max(received), min(relative), max(relative),
        interrogator[0], interrogator[-1], shard, count,
    )  # fmt: skip
    head = COUNTS.pack(MERGED if key_shared else MERGED_ALONE, count, 0)
    content = b"".join((head, *map(_pack, (ids, received, relative, interrogator)), freeform))
    return bounds, compress(content, MERGED_LEVEL)


def may_share_key(data: bytes) -> bool:
    """Return whether the key of a segment may open other segments too.

    Older versions encrypted all segments of a merge with one key. Only the first bytes of the
    content are decompressed.

    Raises:
        FormatError: the content is not a segment.
    """
    head = decompress_head(data, COUNTS.size)
    if len(head) < COUNTS.size or head[0] not in {ARRIVAL, SORTED, MERGED, MERGED_ALONE}:
        raise FormatError("the segment is truncated or has an unknown form")
    return head[0] == MERGED


def decompress_head(frame: bytes, size: int) -> bytes:
    """Return the first `size` bytes of the content of a frame, or all if the content is shorter.

    A crafted frame can't use more memory than a frame from `compress`.

    Raises:
        FormatError: the bytes are not such a frame.
    """
    try:
        with _contexts.small_window.stream_reader(frame) as reader:
            return reader.read(size)
    except zstandard.ZstdError:
        raise FormatError("compressed content is damaged") from None
