"""The segment: readings of one vault as compressed columns, the unit that is encrypted and stored.

The readings are ordered by (interrogator timestamp, id). The columns are:

- times of receipt, as runs, because the readings of a request share their time of receipt
- relative and interrogator timestamps, as differences with transposed bytes, because zstd
  compresses plain 64-bit numbers badly
- the `freeform` texts

The ids in a drain's segment are `ID_STRIDE` apart, so they are not stored. If the order of receipt
differs from the order of the readings, the segment also has their positions in the order of
receipt. A merged segment has ids and times of receipt as differences, too.
"""

import struct
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise, starmap
from operator import le, sub
from typing import overload

from .compression import MERGED_LEVEL, SEGMENT_LEVEL, compress, decompress, decompress_head
from .errors import FormatError
from .reading import SEPARATOR, Reading, ReadingColumns, absolute_timestamp

FORMAT = 1
ID_STRIDE = 256
"""Distance of the ids of a shard. The remainder is the shard, so no id is in two shards."""
MAX_CONTENT_BYTES = 2**31

_BOUNDS = struct.Struct("<9qI")
_COUNTS = struct.Struct("<BII")
_RUN = struct.Struct("<qI")
_RAW, _DELTA = b"\0", b"\1"
_ARRIVAL, _SORTED, _MERGED, _MERGED_ALONE = 0, 1, 2, 3
"""Forms of the content: in the order of receipt; sorted; merged, and the key may open other
segments; merged, with its own key."""
_MERGED_COLUMNS = 4
RUN_CHARACTERS = 2**17
"""Approximate number of characters of texts decoded at a time."""
_CHECKED_BYTES = 2**16


@dataclass(frozen=True, slots=True)
class SegmentBounds:
    """The lowest and highest ids and times of a segment, which the database knows unencrypted.

    All bounds are inclusive. Ids in between may belong to other segments. Times of receipt are in
    Unix milliseconds, the other times in µs of the device's clock.
    """

    first_id: int
    last_id: int
    received_min: int
    received_max: int
    relative_min: int
    relative_max: int
    interrogator_min: int
    interrogator_max: int
    shard: int
    count: int

    def to_bytes(self) -> bytes:
        """Return the bounds as bytes, the associated data of the ciphertext."""
        return _BOUNDS.pack(
            self.first_id, self.last_id, self.received_min, self.received_max,
            self.relative_min, self.relative_max, self.interrogator_min, self.interrogator_max,
            self.shard, self.count,
        )  # fmt: skip

    @classmethod
    def from_bytes(cls, data: bytes) -> "SegmentBounds":
        """Return the bounds that `to_bytes` wrote. Raises `FormatError` for other bytes."""
        try:
            return cls(*_BOUNDS.unpack(data))
        except struct.error:
            raise FormatError("the segment's bounds have a wrong length") from None


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
        head = _COUNTS.pack(_ARRIVAL, count, len(runs))
        offsets = b""
    else:
        head = _COUNTS.pack(_SORTED, count, len(runs))
        offsets = array("I", order).tobytes()
        relative = array("q", map(relative.__getitem__, order))
        interrogator = array("q", map(interrogator.__getitem__, order))
        freeform = SEPARATOR.join(map(freeform.split(SEPARATOR).__getitem__, order))
    content = b"".join(
        (head, *starmap(_RUN.pack, runs), offsets, _pack(relative), _pack(interrogator), freeform)
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
            _COUNTS.pack(_ARRIVAL, 1, 1), _RUN.pack(received, 1),
            _DELTA, readings.relative.tobytes(), _DELTA, readings.interrogator.tobytes(),
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
        how, data = _DELTA, deltas.tobytes()
    except OverflowError:  # a difference does not fit in 64 bits
        how, data = _RAW, column.tobytes()
    return how + b"".join(data[i::8] for i in range(8))


class PackedNumbers(Sequence[int]):
    """A column that is unpacked when its first number is needed: few reads need all columns."""

    __slots__ = ("_count", "_data", "_numbers")

    def __init__(self, data: bytes) -> None:
        """Take what `_pack` returned. Raises `FormatError` for another form."""
        if data[:1] not in {_RAW, _DELTA}:
            raise FormatError("a column of the segment has an unknown form")
        self._count = (len(data) - 1) // 8
        self._data = data
        self._numbers: list[int] | None = None

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, place: int) -> int: ...

    @overload
    def __getitem__(self, place: slice) -> list[int]: ...

    def __getitem__(self, place: int | slice) -> int | list[int]:
        return self._unpacked()[place]

    def __iter__(self) -> Iterator[int]:
        return iter(self._unpacked())

    def _unpacked(self) -> list[int]:
        if self._numbers is None:
            data, count = self._data, self._count
            planes = bytearray(8 * count)
            for i in range(8):
                planes[i::8] = data[1 + i * count : 1 + (i + 1) * count]
            column = array("q", bytes(planes))
            self._numbers = list(accumulate(column) if data[:1] == _DELTA else column)
            self._data = b""
        return self._numbers


class Texts(Sequence[str]):
    """The `freeform` texts of a segment, decoded on access.

    Until then they are a part of the segment's content: a copy as `str` would double the memory of
    a large segment. Slices must have a step of 1.
    """

    def __init__(self, content: bytes, start: int = 0) -> None:
        """The texts begin at offset `start` of `content`, in ASCII, separated by `SEPARATOR`."""
        self._content = content
        self._offsets = [start]
        """Where each run begins. At the end, where the next one would begin."""
        self._firsts = [0]
        """The first text of each run. At the end, the number of all texts."""
        while start <= len(content):
            end = content.find(SEPARATOR, start + RUN_CHARACTERS)
            end = len(content) if end < 0 else end
            self._firsts.append(self._firsts[-1] + content.count(SEPARATOR, start, end) + 1)
            start = end + 1
            self._offsets.append(start)
        self._all: list[str] | None = None

    def __len__(self) -> int:
        return self._firsts[-1]

    @overload
    def __getitem__(self, place: int) -> str: ...

    @overload
    def __getitem__(self, place: slice) -> list[str]: ...

    def __getitem__(self, place: int | slice) -> str | list[str]:
        if self._all is not None or not isinstance(place, slice):
            return self._decoded()[place]
        begin, end, _ = place.indices(len(self))
        return [text for _, run in self.runs(begin, end) for text in split_texts(run)]

    def __iter__(self) -> Iterator[str]:
        return iter(self._decoded())

    @property
    def size(self) -> int:
        """Approximate number of characters of all texts."""
        return len(self._content) - self._offsets[0]

    def runs(
        self, begin: int, end: int, *, descending: bool = False
    ) -> Iterator[tuple[slice, memoryview]]:
        """Yield the texts from index `begin` up to `end`, in runs of about `RUN_CHARACTERS`.

        A run is the places of its texts, and the texts with `SEPARATOR` between them. Decoding
        pieces that fit the CPU's cache takes less than half of the time. `descending`: the last
        run first; within a run, the texts are in order.
        """
        if begin >= end:
            return
        numbers = range(bisect_right(self._firsts, begin) - 1, bisect_left(self._firsts, end))
        for number in reversed(numbers) if descending else numbers:
            first, last = self._firsts[number], self._firsts[number + 1]
            run = memoryview(self._content)[self._offsets[number] : self._offsets[number + 1] - 1]
            places = slice(max(begin, first), min(end, last))
            if places != slice(first, last):
                texts = bytes(run).split(SEPARATOR)[places.start - first : places.stop - first]
                run = memoryview(SEPARATOR.join(texts))
            yield places, run

    def _decoded(self) -> list[str]:
        if self._all is None:
            self._all = self[:]
        return self._all


def split_texts(run: memoryview | bytes) -> list[str]:
    """Return the texts of a run."""
    return str(run, "ascii").split("\0")


@dataclass(slots=True)
class SegmentColumns:
    """A decoded segment: columns of equal length, ordered by (interrogator timestamp, id)."""

    ids: Sequence[int]
    received: Sequence[int]
    """Unix milliseconds."""
    relative: Sequence[int]
    interrogator: Sequence[int]
    freeform: Sequence[str]

    def readings(self) -> list[Reading]:
        """Return the readings, in the same order."""
        # The readings of a request share their time of receipt, so there are few distinct ones.
        stamps = {moment: absolute_timestamp(moment // 1000) for moment in set(self.received)}
        return list(
            map(
                Reading,
                map(stamps.__getitem__, self.received),
                self.freeform,
                self.ids,
                self.interrogator,
                self.relative,
            )
        )

    def cut(self, places: slice) -> "SegmentColumns":
        """Return the columns of a slice of the readings."""
        return SegmentColumns(
            self.ids[places],
            self.received[places],
            self.relative[places],
            self.interrogator[places],
            self.freeform[places],
        )


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
    head = _COUNTS.pack(_MERGED if key_shared else _MERGED_ALONE, count, 0)
    content = b"".join((head, *map(_pack, (ids, received, relative, interrogator)), freeform))
    return bounds, compress(content, MERGED_LEVEL)


def may_share_key(data: bytes) -> bool:
    """Return whether the key of a segment may open other segments too.

    Older versions encrypted all segments of a merge with one key. Only the first bytes of the
    content are decompressed.

    Raises:
        FormatError: the content is not a segment.
    """
    head = decompress_head(data, _COUNTS.size)
    if len(head) < _COUNTS.size or head[0] not in {_ARRIVAL, _SORTED, _MERGED, _MERGED_ALONE}:
        raise FormatError("the segment is truncated or has an unknown form")
    return head[0] == _MERGED


def decode_segment(bounds: SegmentBounds, data: bytes) -> SegmentColumns:
    """Return the columns of a segment that `encode_segment` or `encode_merged` wrote.

    Raises:
        FormatError: the content is not a segment with these bounds.
    """
    content = decompress(data, MAX_CONTENT_BYTES)
    if len(content) < _COUNTS.size:
        raise FormatError("the segment is truncated")
    order, count, run_count = _COUNTS.unpack_from(content)
    if order in {_MERGED, _MERGED_ALONE} and count == bounds.count:
        return _decode_merged(content, count)
    if count != bounds.count or bounds.last_id != bounds.first_id + (count - 1) * ID_STRIDE:
        raise FormatError("the segment's content does not match its bounds")
    runs_end = _COUNTS.size + _RUN.size * run_count
    offsets_end = runs_end + (4 * count if order == _SORTED else 0)
    width = 1 + 8 * count
    texts_start = offsets_end + 2 * width
    if order not in {_ARRIVAL, _SORTED} or len(content) < texts_start:
        raise FormatError("the segment is truncated or has an unknown form")
    received = _received(content[_COUNTS.size : runs_end], count)
    ids: Sequence[int] = range(bounds.first_id, bounds.last_id + 1, ID_STRIDE)
    if order == _SORTED:
        positions = _positions(content[runs_end:offsets_end])
        ids = list(map(ids.__getitem__, positions))
        received = list(map(received.__getitem__, positions))
    relative = PackedNumbers(content[offsets_end : offsets_end + width])
    interrogator = PackedNumbers(content[offsets_end + width : texts_start])
    freeform = _texts(content, texts_start)
    if len(freeform) != count:
        raise FormatError("the segment's columns differ in length")
    return SegmentColumns(ids, received, relative, interrogator, freeform)


def _decode_merged(content: bytes, count: int) -> SegmentColumns:
    width = 1 + 8 * count
    starts = [_COUNTS.size + number * width for number in range(_MERGED_COLUMNS + 1)]
    if len(content) < starts[-1]:
        raise FormatError("the segment is truncated")
    ids, received, relative, interrogator = (
        PackedNumbers(content[start : start + width]) for start in starts[:-1]
    )
    freeform = _texts(content, starts[-1])
    if len(freeform) != count:
        raise FormatError("the segment's columns differ in length")
    return SegmentColumns(ids, received, relative, interrogator, freeform)


def _received(data: bytes, count: int) -> list[int]:
    runs = list(_RUN.iter_unpack(data))
    # Checked before memory for the column is allocated: a run may claim four billion readings.
    if sum(length for _, length in runs) != count:
        raise FormatError("the segment's columns differ in length")
    received: list[int] = []
    for moment, length in runs:
        received += [moment] * length
    return received


def _positions(data: bytes) -> "array[int]":
    positions = array("I", data)
    if max(positions, default=-1) >= len(positions):
        raise FormatError("the segment's order has a position beyond its readings")
    return positions


def _texts(content: bytes, start: int) -> Texts:
    # In pieces: a slice with all texts of a large segment would double its memory.
    pieces = range(start, len(content), _CHECKED_BYTES)
    if not all(content[piece : piece + _CHECKED_BYTES].isascii() for piece in pieces):
        raise FormatError("the segment's texts are not ASCII")
    return Texts(content, start)
