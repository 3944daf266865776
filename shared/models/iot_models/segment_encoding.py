"""The encoding of a drain's segments and of merged segments. Entries use the same compression."""

import struct
import threading
from array import array
from collections.abc import Sequence
from itertools import accumulate, pairwise, starmap
from operator import gt
from typing import NamedTuple

import zstandard

from .compaction_order import SMALL_READINGS
from .errors import FormatError
from .packed_column import byte_planes, pack_column
from .reading import SEPARATOR, ReadingColumns, count_texts
from .segment import (
    ARRIVAL,
    COUNTS,
    DELTA,
    ID_STRIDE,
    MERGED,
    MERGED_ALONE,
    RUN,
    SORTED,
    SegmentBounds,
    SegmentColumns,
)

ENTRY_LEVEL = 1
"""The zstd level for entries. They live for about a second, so speed matters more than size. Level
-1 takes half of the time, but does not compress digits that don't repeat."""
SEGMENT_LEVEL = 1
"""The zstd level for segments of a drain. These live until compaction merges them, or for years.
Level 3 takes longer and, for most kinds of readings, even compresses less. Level 5 saves a
twentieth of the bytes and takes three times as long."""
MERGED_LEVEL = 9
"""The zstd level for merged segments, which are compressed in the background and live for years."""

_BATCH_READINGS = 16
"""If the batches of a segment have at least this many readings on average, whole batches are sorted
if possible. With smaller batches, sorting the single readings costs less."""
_NUMBER = struct.Struct("<q")
_MAX_WINDOW = 2**23
"""Largest zstd window, in bytes, that `decompress_head` accepts: twice the largest window that
`MERGED_LEVEL` uses."""


class _Contexts(threading.local):
    """The zstd compressors and the decompressor of each thread.

    They are slow to create, and threads must not share them.
    """

    def __init__(self) -> None:
        self.compressors = {
            level: zstandard.ZstdCompressor(level=level)
            for level in (ENTRY_LEVEL, SEGMENT_LEVEL, MERGED_LEVEL)
        }
        self.small_window = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW)


_contexts = _Contexts()


class _NumberedBatch(NamedTuple):
    first_id: int
    received: int
    readings: ReadingColumns


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
    relative = b"".join([readings.relative for _, readings in batches])
    interrogator = b"".join([readings.interrogator for _, readings in batches])
    runs = [(received, len(readings.relative)) for received, readings in batches]
    times = [received for received, _ in runs]
    count = len(relative) // 8
    if not (count and len(interrogator) == 8 * count and _have_all_texts(batches)):
        raise FormatError("the segment's columns differ in length")
    packed = pack_column(relative), pack_column(interrogator)
    bounds = SegmentBounds(
        first_id, first_id + (count - 1) * ID_STRIDE,
        min(times), max(times),
        *_range(relative, is_sorted=packed[0].is_sorted),
        *_range(interrogator, is_sorted=packed[1].is_sorted),
        shard, count,
    )  # fmt: skip
    if not packed[1].is_sorted:
        content = _encode_unsorted(batches, bounds)
        if content is not None:
            return bounds, content
    content = b"".join(
        (
            COUNTS.pack(ARRIVAL, count, len(runs)), *starmap(RUN.pack, runs),
            packed[0].data, packed[1].data,
            SEPARATOR.join([readings.freeform for _, readings in batches]),
        )
    )  # fmt: skip
    return bounds, compress(content, SEGMENT_LEVEL)


def _have_all_texts(batches: Sequence[tuple[int, ReadingColumns]]) -> bool:
    return all(
        readings.has_all_texts
        or count_texts(readings.freeform, len(readings.relative)) == len(readings.relative)
        for _, readings in batches
    )


def _range(column: bytes, *, is_sorted: bool) -> tuple[int, int]:
    """Return the lowest and the highest number of a column."""
    if is_sorted:
        return *_NUMBER.unpack(column[:8]), *_NUMBER.unpack(column[-8:])
    # Most unsorted columns are nearly sorted, and then sorting is faster than `min` and `max`.
    numbers = sorted(array("q", column))
    return numbers[0], numbers[-1]


def _encode_unsorted(
    batches: Sequence[tuple[int, ReadingColumns]], bounds: SegmentBounds
) -> bytes | None:
    """Sort the readings by interrogator timestamp, and return the content of their segment.

    Return None if the readings are sorted already.
    """
    count, first_id = bounds.count, bounds.first_id
    if count >= max(SMALL_READINGS, _BATCH_READINGS * len(batches)) and bounds.received_min >= 0:
        numbered = _in_time_order(batches, first_id)
        if numbered is not None:
            in_order = not any(starmap(gt, pairwise(each.first_id for each in numbered)))
            return None if in_order else _encode_numbered(numbered)
    interrogator = array("q", b"".join([readings.interrogator for _, readings in batches]))
    order = sorted(range(count), key=interrogator.__getitem__)
    if order == list(range(count)):
        return None
    relative = array("q", b"".join([readings.relative for _, readings in batches]))
    texts = SEPARATOR.join([readings.freeform for _, readings in batches]).split(SEPARATOR)
    runs = [RUN.pack(received, len(readings.relative)) for received, readings in batches]
    content = b"".join(
        (
            COUNTS.pack(SORTED, count, len(runs)), *runs, array("I", order).tobytes(),
            _pack(array("q", map(relative.__getitem__, order))),
            _pack(array("q", map(interrogator.__getitem__, order))),
            SEPARATOR.join(map(texts.__getitem__, order)),
        )
    )  # fmt: skip
    return compress(content, SEGMENT_LEVEL)


def _in_time_order(
    batches: Sequence[tuple[int, ReadingColumns]], first_id: int
) -> list[_NumberedBatch] | None:
    """Return the batches, with the first id of each, sorted by interrogator timestamp.

    Return None if this does not sort the readings: batches overlap, or a batch is not sorted.
    """
    counts = [len(readings.interrogator) for _, readings in batches]
    firsts = accumulate(counts[:-1], lambda at, count: at + count * ID_STRIDE, initial=first_id)
    numbered = [_NumberedBatch(first, *batch) for first, batch in zip(firsts, batches, strict=True)]
    numbered.sort(key=lambda batch: batch.readings.interrogator[0])
    columns = [batch.readings.interrogator for batch in numbered]
    if any(later[0] <= earlier[-1] for earlier, later in pairwise(columns)):
        return None
    if not all(map(_is_sorted, columns)):
        return None
    return numbered


def _encode_numbered(batches: Sequence[_NumberedBatch]) -> bytes:
    """Return the content of a segment of `batches`, which are sorted by interrogator timestamp.

    The batches were received in another order, so the content has columns of ids and of times of
    receipt.
    """
    # Differences of ids take nearly no space. The positions of the form `SORTED` would take two
    # bytes per reading.
    ids, received = list[bytes](), list[bytes]()
    last_id = last_received = 0
    for batch in batches:
        others = len(batch.readings.relative) - 1
        ids += [_NUMBER.pack(batch.first_id - last_id), _NUMBER.pack(ID_STRIDE) * others]
        received += [_NUMBER.pack(batch.received - last_received), bytes(8 * others)]
        last_id, last_received = batch.first_id + others * ID_STRIDE, batch.received
    parts = [batch.readings for batch in batches]
    relative = array("q", b"".join([readings.relative for readings in parts]))
    interrogator = array("q", b"".join([readings.interrogator for readings in parts]))
    content = b"".join(
        (
            # `MERGED`, because version 0.1 can't read `MERGED_ALONE`. The only effect of `MERGED`
            # is that compaction leaves the segment alone, and this segment is not small anyway.
            COUNTS.pack(MERGED, len(relative), 0),
            DELTA, byte_planes(b"".join(ids)), DELTA, byte_planes(b"".join(received)),
            _pack(relative), _pack(interrogator),
            SEPARATOR.join([readings.freeform for readings in parts]),
        )
    )  # fmt: skip
    return compress(content, SEGMENT_LEVEL)


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


def _is_sorted(column: "array[int]") -> bool:
    """Return whether a column is sorted, by comparing it with a sorted copy.

    If the column is sorted already, sorting it is faster than comparing its pairs of neighbours.
    """
    numbers = column.tolist()
    return sorted(numbers) == numbers


def _pack(column: "array[int]") -> bytes:
    return pack_column(column.tobytes()).data


def encode_merged(
    columns: SegmentColumns, shard: int, *, key_shared: bool = False
) -> tuple[SegmentBounds, bytes]:
    """Return the bounds and the content of a merged segment.

    `columns` has at least one reading, and is ordered by (interrogator timestamp, id).
    `key_shared`: the segment's key encrypts other segments too.

    Raises:
        FormatError: the columns differ in length. Such a segment could never be decoded.
    """
    ids, received = array("q", columns.ids), array("q", columns.received)
    relative, interrogator = array("q", columns.relative), array("q", columns.interrogator)
    freeform = SEPARATOR.join(text.encode("ascii") for text in columns.freeform)
    count = len(ids)
    lengths = {len(received), len(relative), len(interrogator), count_texts(freeform, count)}
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
    """Return whether other segments may have the same key as an encoded segment.

    Older versions encrypted all segments of a merge with one key. Only the first bytes of `data`
    are decompressed.

    Raises:
        FormatError: `data` is not an encoded segment.
    """
    head = decompress_head(data, COUNTS.size)
    if len(head) < COUNTS.size or head[0] not in {ARRIVAL, SORTED, MERGED, MERGED_ALONE}:
        raise FormatError("the segment is truncated or has an unknown form")
    return head[0] == MERGED


def compress(data: bytes, level: int) -> bytes:
    """Return one zstd frame, which contains the size of its content."""
    return _contexts.compressors[level].compress(data)


def decompress_head(frame: bytes, size: int) -> bytes:
    """Return the first `size` bytes of the content of a frame, or all if the content is shorter.

    A frame whose window exceeds `_MAX_WINDOW` is refused, because it might need much memory.

    Raises:
        FormatError: the bytes are not a zstd frame, or its window is too large.
    """
    try:
        with _contexts.small_window.stream_reader(frame) as reader:
            return reader.read(size)
    except zstandard.ZstdError:
        raise FormatError("compressed content is damaged") from None
