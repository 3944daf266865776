"""The segment: readings of one vault as compressed columns, the unit that is encrypted and stored.

The readings are ordered by (interrogator timestamp, id). Each segment has these columns:

- relative and interrogator timestamps, as differences with transposed bytes, because zstd
  compresses plain 64-bit numbers badly
- the `freeform` texts

The form says how ids and times of receipt are stored. `ARRIVAL`: the readings were received in this
order. Ids are not stored, because each is `ID_STRIDE` more than the one before, and times are
run-length encoded. `SORTED`: like `ARRIVAL`, but one more column has each reading's position in the
order of receipt. `MERGED`, `MERGED_ALONE`: ids and times are two more columns.

`segment_encoding.py` writes what this file reads. Entries use the same compression.

A writer may be defective or taken over, so a segment that decrypts may still be damaged.
`decode_segment` refuses all content with which a read would fail later, or never end.
"""

import itertools
import struct
import threading
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import overload

import zstandard

from .errors import FormatError
from .reading import IDS, INT64, RECEIPTS, SEPARATOR, Reading, absolute_timestamp

ID_STRIDE = 256
"""Distance between the ids of a shard. `id % ID_STRIDE` is the shard: no id is in two shards."""
MAX_CONTENT_BYTES = 2**31

_BOUNDS = struct.Struct("<9qI")
COUNTS = struct.Struct("<BII")
RUN = struct.Struct("<qI")
RAW, DELTA = b"\0", b"\1"
ARRIVAL, SORTED, MERGED, MERGED_ALONE = 0, 1, 2, 3
"""Forms of a segment. The chunk key of a segment in form `MERGED` may open other segments, too. In
form `MERGED_ALONE`, it opens this segment only."""
_CHECKED_BYTES = 2**16
_FEW = 32  # Looking for unused bytes of so few numbers takes longer than unpacking all bytes.

RUN_CHARACTERS = 2**17
"""Approximate number of characters of `freeform` texts that are decoded in one call."""

_MAX_RATIO = 2**15
"""Maximum compression ratio of a zstd frame: the densest block has 4 bytes for 128 KiB."""


@dataclass(frozen=True, slots=True)
class SegmentBounds:
    """The lowest and highest ids and times of a segment. The database has them unencrypted.

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
        """Return the bounds as bytes: the associated data of the segment's ciphertext."""
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


class PackedNumbers(Sequence[int]):
    """A column that is unpacked when its first number is needed: few reads need all columns."""

    __slots__ = ("_count", "_data", "_numbers")

    def __init__(self, data: bytes, allowed: range | None = INT64) -> None:
        """`data`: a column from `pack_column`. `allowed`: the range of its numbers; None: any.

        Raises `FormatError` if the column has an unknown encoding, or a number that is not allowed.
        """
        if data[:1] not in {RAW, DELTA}:
            raise FormatError("a column of the segment has an unknown encoding")
        self._count = (len(data) - 1) // 8
        self._data = data
        self._numbers: list[int] | None = None
        if allowed and not self._lies_within(allowed):
            raise FormatError("a column of the segment has a number out of range")

    def _lies_within(self, allowed: range) -> bool:
        count, data = self._count, self._data
        bits = min(-allowed.start, allowed.stop).bit_length() - 2
        first = int.from_bytes(data[1::count], "little", signed=True)
        signs = data[2 + 7 * count :]
        # Small differences can't leave the range. Unpacking the column takes fifty times as long.
        is_small = first.bit_length() <= bits and not signs.translate(None, b"\0\xff")
        for i in range((bits - count.bit_length()) // 8, 7):
            is_small = is_small and data[2 + i * count : 1 + (i + 1) * count] == signs
        if is_small and data[:1] == DELTA:
            return True
        return min(self) in allowed and max(self) in allowed

    def ascends(self) -> bool:
        """Return True if the column is known to be sorted; False if it is unsorted or not packed as
        differences. Call this before any number is read: reading replaces the packed data."""
        # The highest byte of a negative difference is not ASCII.
        return self._data[:1] == DELTA and self._data[2 + 7 * self._count :].isascii()

    def repeats(self) -> bool:
        """Return whether a column that ascends has equal numbers. Call this before any number is
        read, because reading replaces the packed data."""
        count, joined = self._count, 0
        for i in range(8):
            joined |= int.from_bytes(self._data[2 + i * count : 1 + (i + 1) * count], "little")
            if 0 not in joined.to_bytes(count - 1, "little"):
                return False
        return True

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> int: ...

    @overload
    def __getitem__(self, index: slice) -> list[int]: ...

    def __getitem__(self, index: int | slice) -> int | list[int]:
        return self._unpacked()[index]

    def __iter__(self) -> Iterator[int]:
        return iter(self._unpacked())

    def _unpacked(self) -> list[int]:
        if self._numbers is None:
            data, count = self._data, self._count
            planes = [data[1 + i * count : 1 + (i + 1) * count] for i in range(8)]
            zeros = bytes(count - 1) if count > _FEW and data[:1] == DELTA else None
            if zeros and all(plane[1:] == zeros for plane in planes[2:]):
                # Differences of two bytes, apart from the first number. Joining two planes takes a
                # quarter of the time.
                first = _interleaved([plane[:1] for plane in planes], "q")
                others = _interleaved([plane[1:] for plane in planes[:2]], "H")
                self._numbers = list(itertools.accumulate(others, initial=first[0]))
            else:
                column = _interleaved(planes, "q")
                self._numbers = list(itertools.accumulate(column) if data[:1] == DELTA else column)
            self._data = b""
        return self._numbers


def _interleaved(planes: Sequence[bytes], code: str) -> "array[int]":
    """Return an array of type `code`. Plane i has byte i of each number; byte 0 is the lowest."""
    width = len(planes)
    joined = bytearray(width * len(planes[0]))
    for i, plane in enumerate(planes):
        joined[i::width] = plane
    return array(code, bytes(joined))


class Texts(Sequence[str]):
    """The `freeform` texts of a segment, decoded on access.

    A copy of all texts as `str` would double the memory of a large segment. Texts are decoded in
    runs of about `RUN_CHARACTERS`, which fit the CPU's cache: decoding all of them in one call
    takes twice the time. A slice of the texts must have a step of 1.
    """

    def __init__(self, content: bytes, start: int, count: int) -> None:
        """The texts begin at offset `start`, in ASCII, separated by `SEPARATOR`.

        Raises `FormatError` if they are not ASCII, or if there are fewer or more than `count`.
        """
        self._content = content
        self._offsets = [start]
        """Offset of each run, and of the run that would follow the last one."""
        self._firsts = [0]
        """Index of the first text of each run, then the number of all texts."""
        while start <= len(content):
            end = content.find(SEPARATOR, start + RUN_CHARACTERS)
            end = len(content) if end < 0 else end
            self._firsts.append(self._firsts[-1] + _count_texts(content, start, end))
            start = end + 1
            self._offsets.append(start)
        if len(self) != count:
            raise FormatError("the segment's columns differ in length")

    def __len__(self) -> int:
        return self._firsts[-1]

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> list[str]: ...

    def __getitem__(self, index: int | slice) -> str | list[str]:
        if not isinstance(index, slice):
            begin = range(len(self))[index]
            return self[begin : begin + 1][0]
        begin, end, _ = index.indices(len(self))
        return list(itertools.chain.from_iterable(texts for _, texts in self.split(begin, end)))

    def __iter__(self) -> Iterator[str]:
        return iter(self[:])

    @property
    def size(self) -> int:
        """Approximate number of characters of all texts."""
        return len(self._content) - self._offsets[0]

    def split(self, begin: int, end: int) -> Iterator[tuple[slice, list[str]]]:
        """Yield (indices, texts): texts `begin` to `end - 1`, about `RUN_CHARACTERS` at a time."""
        for indices, run, part in self._runs(begin, end):
            texts = split_texts(run) if part is None else split_texts(run)[part]
            yield indices, texts
            del texts  # before the texts of the next run are decoded

    def runs(
        self, begin: int, end: int, *, descending: bool = False
    ) -> Iterator[tuple[slice, memoryview]]:
        """Yield (indices, texts joined by `SEPARATOR`) for the same runs as `split`.

        `descending`: yield the last run first. The texts within a run stay in ascending order.
        """
        runs = self._runs(begin, end)
        for indices, run, part in reversed(runs) if descending else runs:
            if part is None:
                yield indices, run
            else:
                yield indices, memoryview(SEPARATOR.join(bytes(run).split(SEPARATOR)[part]))

    def _runs(self, begin: int, end: int) -> list[tuple[slice, memoryview, slice | None]]:
        """Return the runs that contain texts `begin` to `end - 1`. For each run: the indices of its
        wanted texts, the bytes of the whole run, and which of its texts are wanted (None: all)."""
        found: list[tuple[slice, memoryview, slice | None]] = []
        number = bisect_right(self._firsts, begin) - 1
        while begin < end:
            first, last = self._firsts[number : number + 2]
            run = memoryview(self._content)[self._offsets[number] : self._offsets[number + 1] - 1]
            indices = slice(begin, min(end, last))
            part = slice(begin - first, indices.stop - first)
            found.append((indices, run, None if indices == slice(first, last) else part))
            begin, number = last, number + 1
        return found


def _count_texts(content: bytes, begin: int, end: int) -> int:
    """Count the texts of a run. Raises `FormatError` if they are not ASCII."""
    count = 1
    # In pieces: a copy of one long text would double its memory.
    for start in range(begin, end, _CHECKED_BYTES):
        piece = content[start : min(end, start + _CHECKED_BYTES)]
        if not piece.isascii():
            raise FormatError("the segment's texts are not ASCII")
        count += len(piece) - len(piece.replace(SEPARATOR, b""))  # as `count_texts`
    return count


def split_texts(run: memoryview | bytes) -> list[str]:
    """Split a run of texts, which are joined by `SEPARATOR`."""
    return str(run, "ascii").split("\0")


@dataclass(slots=True)
class SegmentColumns:
    """A decoded segment: columns of equal length, ordered by (interrogator timestamp, id)."""

    ids: Sequence[int]
    received: Sequence[int]
    """Times of receipt in Unix milliseconds."""
    relative: Sequence[int]
    interrogator: Sequence[int]
    freeform: Sequence[str]
    second: int | None = None
    """The Unix second in which all readings were received; None if the seconds differ. If it is
    set, as in most segments of a drain, the column `received` is not unpacked."""

    def readings(self) -> list[Reading]:
        """Return all readings, ordered by (interrogator timestamp, id)."""
        return list(self.readings_at(slice(0, len(self.ids)), self.freeform))

    def readings_at(self, indices: slice, texts: Iterable[str]) -> Iterator[Reading]:
        """Return the readings at `indices`, with the given `freeform` texts."""
        stamps: Iterable[str]
        if self.second is not None:
            stamps = itertools.repeat(absolute_timestamp(self.second))
        else:
            received = self.received[indices]
            # The readings of a request share their time of receipt, so few times differ.
            texts_of = {moment: absolute_timestamp(moment // 1000) for moment in set(received)}
            stamps = map(texts_of.__getitem__, received)
        numbers = self.ids[indices], self.interrogator[indices], self.relative[indices]
        return map(Reading, stamps, texts, *numbers)

    def selected(self, kept: Sequence[bool]) -> "SegmentColumns":
        """Return the columns of the readings for which `kept` is True."""
        return SegmentColumns(
            list(itertools.compress(self.ids, kept)),
            list(itertools.compress(self.received, kept)),
            list(itertools.compress(self.relative, kept)),
            list(itertools.compress(self.interrogator, kept)),
            list(itertools.compress(self.freeform, kept)),
            self.second,
        )


def decode_segment(bounds: SegmentBounds, data: bytes) -> SegmentColumns:
    """Return the columns of a segment that `encode_segment` or `encode_merged` wrote.

    Raises `FormatError` if the content is not a segment with these bounds.
    """
    content = decompress(data, MAX_CONTENT_BYTES)
    if len(content) < COUNTS.size:
        raise FormatError("the segment is truncated")
    order, count, run_count = COUNTS.unpack_from(content)
    is_merged, width = order in {MERGED, MERGED_ALONE}, 1 + 8 * count
    runs_end = COUNTS.size + (0 if is_merged else RUN.size * run_count)
    start = runs_end + (2 * width if is_merged else 4 * count if order == SORTED else 0)
    texts_start = start + 2 * width
    if not ARRIVAL <= order <= MERGED_ALONE or len(content) < texts_start:
        raise FormatError("the segment is truncated or has an unknown form")
    is_dense = bounds.last_id == bounds.first_id + (count - 1) * ID_STRIDE
    if count != bounds.count or not count or not (is_merged or is_dense):
        raise FormatError("the segment's content does not match its bounds")
    ids: Sequence[int] = range(bounds.first_id, bounds.last_id + 1, ID_STRIDE)
    received: Sequence[int]
    ids_ascend = order == ARRIVAL
    if is_merged:
        ids = PackedNumbers(content[runs_end : runs_end + width])
        ids_ascend = ids.ascends()
        received = PackedNumbers(content[runs_end + width : start], RECEIPTS)
    else:
        received = _received(content[COUNTS.size : runs_end], count)
    if order == SORTED:
        positions = _positions(content[runs_end:start])
        ids = list(map(ids.__getitem__, positions))
        received = list(map(received.__getitem__, positions))
    relative = PackedNumbers(content[start : start + width])
    interrogator = PackedNumbers(content[start + width : texts_start], None)
    freeform = Texts(content, texts_start, count)
    _check_order(bounds, ids, interrogator, ids_ascend=ids_ascend)
    return SegmentColumns(ids, received, relative, interrogator, freeform, _second(bounds))


def _check_order(
    bounds: SegmentBounds, ids: Sequence[int], times: PackedNumbers, *, ids_ascend: bool
) -> None:
    """Raise `FormatError` if the readings are not in order, or not within the bounds.

    A read continues behind the reading that it sent last. With a segment out of order, it would
    send some readings again, and might never end.
    """
    is_sorted = times.ascends() and (ids_ascend or not times.repeats())
    first, last = (times[0], ids[0]), (times[-1], ids[-1])
    begin = bounds.interrogator_min, bounds.first_id
    end = bounds.interrogator_max, bounds.last_id
    if not begin <= first <= last <= end or begin[1] not in IDS or end[1] not in IDS:
        raise FormatError("the segment's readings are outside its bounds")
    positions = [] if is_sorted else list(zip(times, ids, strict=True))
    if positions != sorted(positions):
        raise FormatError("the segment's readings are not in order")


def _second(bounds: SegmentBounds) -> int | None:
    """Return the Unix second in which all readings were received; None if the seconds differ.
    Raises `FormatError` if a time of receipt is out of range."""
    if bounds.received_min not in RECEIPTS or bounds.received_max not in RECEIPTS:
        raise FormatError("the segment has a time of receipt out of range")
    first, last = bounds.received_min // 1000, bounds.received_max // 1000
    return first if first == last else None


def _received(data: bytes, count: int) -> list[int]:
    runs = list(RUN.iter_unpack(data))
    # Checked before memory for the column is allocated: a run may claim four billion readings.
    if sum(length for _, length in runs) != count:
        raise FormatError("the segment's columns differ in length")
    received: list[int] = []
    for moment, length in runs:
        if moment not in RECEIPTS:
            raise FormatError("the segment has a time of receipt out of range")
        received += [moment] * length
    return received


def _positions(data: bytes) -> "array[int]":
    positions = array("I", data)
    if max(positions, default=-1) >= len(positions):
        raise FormatError("a position in the segment is beyond its last reading")
    return positions


class _Contexts(threading.local):
    """The zstd decompressor of each thread: slow to create, and threads must not share one."""

    def __init__(self) -> None:
        self.decompressor = zstandard.ZstdDecompressor()


_contexts = _Contexts()


def decompress(frame: bytes, limit: int) -> bytes:
    """Return the content of a frame from `compress`. Raises `FormatError` if the frame is damaged,
    or if its content would exceed `limit` bytes."""
    size = unpacked_size(frame)
    if size > limit:
        raise FormatError(f"content would be larger than {limit} bytes after decompression")
    # The frame claims this size. Check the claim before memory for the content is allocated.
    if size > _MAX_RATIO * len(frame):
        raise FormatError("compressed content is damaged")
    try:
        return _contexts.decompressor.decompress(frame, allow_extra_data=False)
    except zstandard.ZstdError:
        raise FormatError("compressed content is damaged") from None


def unpacked_size(frame: bytes) -> int:
    """Return the size in bytes that a frame from `compress` claims for its content.

    Raises `FormatError` if the bytes are not a zstd frame, or the frame states no size.
    """
    try:
        size = zstandard.frame_content_size(frame)
    except zstandard.ZstdError:
        raise FormatError("compressed content is damaged") from None
    if size < 0:
        raise FormatError("compressed content is damaged")
    return size
