"""The segment: readings of one vault as compressed columns, the unit that is encrypted and stored.

The readings are ordered by (interrogator timestamp, id). The columns are:

- times of receipt, as runs, because the readings of a request share their time of receipt
- relative and interrogator timestamps, as differences with transposed bytes, because zstd
  compresses plain 64-bit numbers badly
- the `freeform` texts

The ids in a drain's segment are `ID_STRIDE` apart, so they are not stored. If the order of receipt
differs from the order of the readings, the segment also has their positions in the order of
receipt. A merged segment has ids and times of receipt as differences, too.

`segment_encoding.py` writes what this file reads. Entries use the same compression.
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
from .reading import SEPARATOR, Reading, absolute_timestamp

FORMAT = 1
ID_STRIDE = 256
"""Distance of the ids of a shard. The remainder is the shard, so no id is in two shards."""
MAX_CONTENT_BYTES = 2**31

_BOUNDS = struct.Struct("<9qI")
COUNTS = struct.Struct("<BII")
RUN = struct.Struct("<qI")
RAW, DELTA = b"\0", b"\1"
ARRIVAL, SORTED, MERGED, MERGED_ALONE = 0, 1, 2, 3
"""Forms of the content: in the order of receipt; sorted; merged, and the key may open other
segments; merged, with its own key."""
_MERGED_COLUMNS = 4
_CHECKED_BYTES = 2**16

ENTRY_LEVEL = 1
"""Entries live for about a second, so speed matters more than size. Level -1 takes half of the
time, but does not compress digits that don't repeat."""
SEGMENT_LEVEL = 1
"""Segments of a drain live until compaction merges them, or for years. Level 3 takes more time and,
for most kinds of readings, more bytes. Level 5 saves a twentieth and takes three times as long."""
MERGED_LEVEL = 9
"""Merged segments are compressed once, in the background, and live for years."""

RUN_CHARACTERS = 2**17
"""Approximate number of characters of texts that are decoded at a time."""

_MAX_RATIO = 2**15
"""Maximum compression ratio of a zstd frame: the densest block has 4 bytes for 128 KiB."""


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


class PackedNumbers(Sequence[int]):
    """A column that is unpacked when its first number is needed: few reads need all columns."""

    __slots__ = ("_count", "_data", "_numbers")

    def __init__(self, data: bytes) -> None:
        """Take what `_pack` returned. Raises `FormatError` for another form."""
        if data[:1] not in {RAW, DELTA}:
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
            planes = [data[1 + i * count : 1 + (i + 1) * count] for i in range(8)]
            zeros = bytes(max(0, count - 1))
            if count and data[:1] == DELTA and all(plane[1:] == zeros for plane in planes[2:]):
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
    """Return the numbers whose first bytes are the first plane, and so on."""
    width = len(planes)
    joined = bytearray(width * len(planes[0]))
    for i, plane in enumerate(planes):
        joined[i::width] = plane
    return array(code, bytes(joined))


class Texts(Sequence[str]):
    """The `freeform` texts of a segment, decoded on access.

    Until then they are a part of the segment's content: a copy as `str` would double the memory of
    a large segment. Runs of about `RUN_CHARACTERS` fit the CPU's cache, and decoding them takes
    less than half of the time. A run is counted when it is decoded, or when a text behind it is
    needed: counting all texts first would take a twentieth of a read.

    Slices must have a step of 1. Access raises `FormatError` if there are fewer or more texts.
    """

    def __init__(self, content: bytes, start: int, count: int) -> None:
        """The texts begin at offset `start`, in ASCII, separated by `SEPARATOR`.

        Raises:
            FormatError: the texts are not ASCII.
        """
        # In pieces: a slice with all texts of a large segment would double its memory.
        pieces = range(start, len(content), _CHECKED_BYTES)
        if not all(content[piece : piece + _CHECKED_BYTES].isascii() for piece in pieces):
            raise FormatError("the segment's texts are not ASCII")
        self._content = content
        self._count = count
        self._offsets = [start]
        """Where each run begins. At the end, where the next one would begin."""
        while start <= len(content):
            end = content.find(SEPARATOR, start + RUN_CHARACTERS)
            start = (len(content) if end < 0 else end) + 1
            self._offsets.append(start)
        self._firsts = [0]
        """The first text of each run, as far as runs are counted, and of the run behind them."""
        self._all: list[str] | None = None

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, place: int) -> str: ...

    @overload
    def __getitem__(self, place: slice) -> list[str]: ...

    def __getitem__(self, place: int | slice) -> str | list[str]:
        if self._all is not None or not isinstance(place, slice):
            return self._decoded()[place]
        begin, end, _ = place.indices(len(self))
        return list(itertools.chain.from_iterable(texts for _, texts in self.split(begin, end)))

    def __iter__(self) -> Iterator[str]:
        return iter(self._decoded())

    @property
    def size(self) -> int:
        """Approximate number of characters of all texts."""
        return len(self._content) - self._offsets[0]

    def split(self, begin: int, end: int) -> Iterator[tuple[slice, list[str]]]:
        """Yield the texts from index `begin` up to `end`, a run at a time, with their places."""
        number = self._run_of(begin)
        while begin < end:
            texts = split_texts(self._run(number))
            if number == len(self._firsts) - 1:
                self._note_run(len(texts))
            first, last = self._firsts[number], self._firsts[number + 1]
            places = slice(begin, min(end, last))
            if places != slice(first, last):
                texts = texts[places.start - first : places.stop - first]
            yield places, texts
            del texts  # before the next ones are decoded
            begin, number = last, number + 1

    def runs(
        self, begin: int, end: int, *, descending: bool = False
    ) -> Iterator[tuple[slice, memoryview]]:
        """Yield the same runs as `split`, with `SEPARATOR` between the texts.

        `descending`: the last run first; within a run, the texts are in order.
        """
        if begin >= end:
            return
        self._run_of(end)  # counts all runs up to there
        numbers = range(self._run_of(begin), self._run_of(end - 1) + 1)
        for number in reversed(numbers) if descending else numbers:
            first, last = self._firsts[number], self._firsts[number + 1]
            run = self._run(number)
            places = slice(max(begin, first), min(end, last))
            if places != slice(first, last):
                texts = bytes(run).split(SEPARATOR)[places.start - first : places.stop - first]
                run = memoryview(SEPARATOR.join(texts))
            yield places, run

    def _run_of(self, place: int) -> int:
        """Return the number of the run in which a text is, and count the runs before it."""
        while self._firsts[-1] < place:
            begin, end = self._offsets[len(self._firsts) - 1 : len(self._firsts) + 1]
            self._note_run(self._content.count(SEPARATOR, begin, end - 1) + 1)
        return bisect_right(self._firsts, place) - 1

    def _run(self, number: int) -> memoryview:
        return memoryview(self._content)[self._offsets[number] : self._offsets[number + 1] - 1]

    def _note_run(self, count: int) -> None:
        self._firsts.append(self._firsts[-1] + count)
        is_last = len(self._firsts) == len(self._offsets)
        if self._firsts[-1] > self._count or (self._firsts[-1] == self._count) is not is_last:
            raise FormatError("the segment's columns differ in length")

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
    second: int | None = None
    """The time of receipt of all readings in Unix seconds, if they share it. Most readings of a
    drain do, and the column `received` is then not unpacked."""

    def readings(self) -> list[Reading]:
        """Return the readings, in the same order."""
        return list(self.readings_at(slice(0, len(self.ids)), self.freeform))

    def readings_at(self, places: slice, texts: Iterable[str]) -> Iterator[Reading]:
        """Return the readings of a slice, whose texts are given."""
        stamps: Iterable[str]
        if self.second is not None:
            stamps = itertools.repeat(absolute_timestamp(self.second))
        else:
            received = self.received[places]
            # The readings of a request share their time of receipt, so few times differ.
            texts_of = {moment: absolute_timestamp(moment // 1000) for moment in set(received)}
            stamps = map(texts_of.__getitem__, received)
        return map(
            Reading,
            stamps,
            texts,
            self.ids[places],
            self.interrogator[places],
            self.relative[places],
        )

    def cut(self, places: slice) -> "SegmentColumns":
        """Return the columns of a slice of the readings."""
        return SegmentColumns(
            self.ids[places],
            self.received[places],
            self.relative[places],
            self.interrogator[places],
            self.freeform[places],
            self.second,
        )

    def selected(self, kept: Sequence[bool]) -> "SegmentColumns":
        """Return the columns of the readings that are to be kept."""
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

    Raises:
        FormatError: the content is not a segment with these bounds. A wrong number of texts is
            found when the texts are accessed.
    """
    content = decompress(data, MAX_CONTENT_BYTES)
    if len(content) < COUNTS.size:
        raise FormatError("the segment is truncated")
    order, count, run_count = COUNTS.unpack_from(content)
    if order in {MERGED, MERGED_ALONE} and count == bounds.count:
        return _decode_merged(bounds, content)
    if count != bounds.count or bounds.last_id != bounds.first_id + (count - 1) * ID_STRIDE:
        raise FormatError("the segment's content does not match its bounds")
    runs_end = COUNTS.size + RUN.size * run_count
    offsets_end = runs_end + (4 * count if order == SORTED else 0)
    width = 1 + 8 * count
    texts_start = offsets_end + 2 * width
    if order not in {ARRIVAL, SORTED} or len(content) < texts_start:
        raise FormatError("the segment is truncated or has an unknown form")
    received = _received(content[COUNTS.size : runs_end], count)
    ids: Sequence[int] = range(bounds.first_id, bounds.last_id + 1, ID_STRIDE)
    if order == SORTED:
        positions = _positions(content[runs_end:offsets_end])
        ids = list(map(ids.__getitem__, positions))
        received = list(map(received.__getitem__, positions))
    relative = PackedNumbers(content[offsets_end : offsets_end + width])
    interrogator = PackedNumbers(content[offsets_end + width : texts_start])
    freeform = Texts(content, texts_start, count)
    return SegmentColumns(ids, received, relative, interrogator, freeform, _second(bounds))


def _decode_merged(bounds: SegmentBounds, content: bytes) -> SegmentColumns:
    count = bounds.count
    width = 1 + 8 * count
    starts = [COUNTS.size + number * width for number in range(_MERGED_COLUMNS + 1)]
    if len(content) < starts[-1]:
        raise FormatError("the segment is truncated")
    ids, received, relative, interrogator = (
        PackedNumbers(content[start : start + width]) for start in starts[:-1]
    )
    freeform = Texts(content, starts[-1], count)
    return SegmentColumns(ids, received, relative, interrogator, freeform, _second(bounds))


def _second(bounds: SegmentBounds) -> int | None:
    first, last = bounds.received_min // 1000, bounds.received_max // 1000
    return first if first == last else None


def _received(data: bytes, count: int) -> list[int]:
    runs = list(RUN.iter_unpack(data))
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


class _Contexts(threading.local):
    """zstd's contexts of a thread: they are slow to create, and threads must not share them."""

    def __init__(self) -> None:
        self.compressors = {
            level: zstandard.ZstdCompressor(level=level)
            for level in (ENTRY_LEVEL, SEGMENT_LEVEL, MERGED_LEVEL)
        }
        self.decompressor = zstandard.ZstdDecompressor()


_contexts = _Contexts()


def compress(data: bytes, level: int) -> bytes:
    """Return one zstd frame, which contains the size of its content."""
    return _contexts.compressors[level].compress(data)


def decompress(frame: bytes, limit: int) -> bytes:
    """Return the content of a frame from `compress`.

    Raises:
        FormatError: the bytes are not such a frame, or the content is larger than `limit` bytes.
    """
    size = unpacked_size(frame)
    if size > limit:
        raise FormatError(f"compressed content is larger than {limit} bytes")
    # The size is a claim of the frame. Check it before memory for the content is allocated.
    if size > _MAX_RATIO * len(frame):
        raise FormatError("compressed content is damaged")
    try:
        return _contexts.decompressor.decompress(frame, allow_extra_data=False)
    except zstandard.ZstdError:
        raise FormatError("compressed content is damaged") from None


def unpacked_size(frame: bytes) -> int:
    """Return the size of the content of a frame from `compress`, as the frame claims it.

    Raises:
        FormatError: the bytes are not such a frame.
    """
    try:
        size = zstandard.frame_content_size(frame)
    except zstandard.ZstdError:
        raise FormatError("compressed content is damaged") from None
    if size < 0:
        raise FormatError("compressed content is damaged")
    return size
