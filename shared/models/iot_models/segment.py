"""The segment: readings of one vault as compressed columns, the unit that is encrypted and stored.

The columns, in the order of (interrogator timestamp, id): when each was received (as runs, for
a request's readings share it), ids, relative and interrogator timestamps (as differences, their
bytes transposed, for zstd finds little in plain 64-bit numbers), and the `freeform` texts.

A drain's segment has ids at even distances, so that it need not hold them. One that was merged of
others has not: it holds ids and times of receipt as differences, too.
"""

import struct
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise, starmap
from operator import le, sub
from typing import overload

from .compression import MERGED_LEVEL, SEGMENT_LEVEL, compress, decompress, decompress_head
from .errors import FormatError
from .reading import SEPARATOR, Reading, ReadingColumns, absolute_timestamp, int64s

FORMAT = 1
ID_STRIDE = 256
"""Ids of one shard are this far apart: their remainder is the shard, so no two shards' meet."""
MAX_CONTENT_BYTES = 2**31

_BOUNDS = struct.Struct("<9qI")
_COUNTS = struct.Struct("<BII")
_RUN = struct.Struct("<qI")
_RAW, _DELTA = b"\0", b"\1"
_ARRIVAL, _SORTED, _MERGED, _MERGED_ALONE = 0, 1, 2, 3
"""Order of the readings, and how a segment came to be. `_MERGED` and `_MERGED_ALONE` differ in this
only: the key of a `_MERGED` segment may open others, too."""
_MERGED_COLUMNS = 4
_RUN_CHARACTERS = 2**17
_CHECKED_BYTES = 2**16


@dataclass(frozen=True, slots=True)
class SegmentBounds:
    """What is known of a segment without opening it: ids, times and count (all inclusive).

    Of ids they are the lowest and the highest: between them may be those of other segments.
    Receipt is in Unix milliseconds, the other times in microseconds of the sender's.
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
        """For binding to the ciphertext as associated data."""
        return _BOUNDS.pack(
            self.first_id, self.last_id, self.received_min, self.received_max,
            self.relative_min, self.relative_max, self.interrogator_min, self.interrogator_max,
            self.shard, self.count,
        )  # fmt: skip

    @classmethod
    def from_bytes(cls, data: bytes) -> "SegmentBounds":
        """The bounds that `to_bytes` wrote. Raises `FormatError` for other bytes."""
        try:
            return cls(*_BOUNDS.unpack(data))
        except struct.error:
            raise FormatError("segment's bounds have another length") from None


def encode_segment(
    batches: Sequence[tuple[int, ReadingColumns]], first_id: int, shard: int
) -> tuple[SegmentBounds, bytes]:
    """Make one segment of `batches`, pairs of (received, readings) in the order of arrival.

    Ids are `first_id`, `first_id + ID_STRIDE`, ... in that order. There is at least one reading.

    Raises:
        FormatError: the columns differ in length; such a segment could never be read again.
    """
    batches = [(received, readings) for received, readings in batches if len(readings)]
    relative, interrogator = array("q"), array("q")
    for _, readings in batches:
        relative += readings.relative
        interrogator += readings.interrogator
    freeform = SEPARATOR.join(readings.freeform for _, readings in batches)
    runs = [(received, len(readings)) for received, readings in batches]
    count = len(relative)
    if not count == len(interrogator) == freeform.count(SEPARATOR) + 1:
        raise FormatError("segment's columns differ in length")
    bounds = SegmentBounds(
        first_id, first_id + (count - 1) * ID_STRIDE,
        min(received for received, _ in runs), max(received for received, _ in runs),
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


def _order(interrogator: "array[int]") -> list[int] | None:
    """The positions in the order of time, then arrival; None when they are in it already."""
    if all(starmap(le, pairwise(interrogator))):
        return None
    return sorted(range(len(interrogator)), key=interrogator.__getitem__)


def _pack(column: "array[int]") -> bytes:
    try:
        deltas = array("q", column[:1])
        deltas.extend(map(sub, column[1:], column))
        how, data = _DELTA, deltas.tobytes()
    except OverflowError:  # two neighbours more than 63 bits apart
        how, data = _RAW, column.tobytes()
    return how + b"".join(data[i::8] for i in range(8))


def _unpack(data: bytes) -> Iterable[int]:
    if data[:1] not in {_RAW, _DELTA}:
        raise FormatError("segment has a column of an unknown form")
    count = (len(data) - 1) // 8
    planes = bytearray(8 * count)
    for i in range(8):
        planes[i::8] = data[1 + i * count : 1 + (i + 1) * count]
    column = int64s(bytes(planes))
    return accumulate(column) if data[:1] == _DELTA else column


class Texts(Sequence[str]):
    """A segment's texts, decoded when they are asked for.

    They are kept as the bytes of the segment's content: of a large segment, a copy as `str` would
    double the memory. Slices have a step of 1.
    """

    def __init__(self, content: bytes, start: int = 0) -> None:
        """`content` holds the texts, in ASCII, from `start` on, with `SEPARATOR` between them."""
        self._content = content
        self._start = start
        self._count = content.count(SEPARATOR, start) + 1
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
        texts: list[str] = []
        for run in self.runs(_RUN_CHARACTERS, begin) if begin < end else ():
            texts += run
            if len(texts) >= end - begin:
                break
        return texts[: end - begin]

    def __iter__(self) -> Iterator[str]:
        return iter(self._decoded())

    @property
    def size(self) -> int:
        """Characters of all texts together, about."""
        return len(self._content) - self._start

    def runs(self, size: int, skip: int = 0) -> Iterator[list[str]]:
        """One text after another in lists of about `size` characters, without the first `skip`:
        what is small enough for the processor's cache is decoded in less than half of the time.
        """
        start, content = self._start, self._content
        for _ in range(skip):
            start = content.index(SEPARATOR, start) + 1
        while start <= len(content):
            end = content.find(SEPARATOR, start + size)
            end = len(content) if end < 0 else end
            yield self._run(start, end)
            start = end + 1

    def runs_from_end(self, size: int, skip: int = 0) -> Iterator[list[str]]:
        """As `runs`, but the last list comes first, and the last `skip` texts are left out. Within
        a list the texts are in order.
        """
        content, end = self._content, len(self._content)
        for _ in range(skip):
            end = content.rindex(SEPARATOR, self._start, end)
        while end >= self._start:
            start = content.rfind(SEPARATOR, self._start, max(self._start, end - size))
            start = self._start - 1 if start < 0 else start
            yield self._run(start + 1, end)
            end = start

    def _run(self, start: int, end: int) -> list[str]:
        return str(memoryview(self._content)[start:end], "ascii").split("\0")

    def _decoded(self) -> list[str]:
        if self._all is None:
            runs = self.runs(_RUN_CHARACTERS)
            self._all = [text for run in runs for text in run]
        return self._all


@dataclass(slots=True)
class SegmentColumns:
    """An opened segment: columns of one length, in the order of (interrogator, id)."""

    ids: Sequence[int]
    received: Sequence[int]
    """Unix milliseconds."""
    relative: Sequence[int]
    interrogator: Sequence[int]
    freeform: Sequence[str]

    def readings(self) -> list[Reading]:
        """The readings, in the same order."""
        # Readings of one request have one time of receipt: few stamps serve many.
        stamps = {each: absolute_timestamp(each // 1000) for each in set(self.received)}
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

    def cut(self, part: slice) -> "SegmentColumns":
        """Those of some places."""
        return SegmentColumns(
            self.ids[part],
            self.received[part],
            self.relative[part],
            self.interrogator[part],
            self.freeform[part],
        )


def encode_merged(
    columns: SegmentColumns, shard: int, *, key_shared: bool = False
) -> tuple[SegmentBounds, bytes]:
    """Make one segment of readings that have their ids already, in the order of (interrogator, id).

    There is at least one reading. `key_shared`: its key is going to encrypt other segments, too.

    Raises:
        FormatError: the columns differ in length; such a segment could never be read again.
    """
    ids, received = int64s(list(columns.ids)), int64s(list(columns.received))
    relative, interrogator = int64s(list(columns.relative)), int64s(list(columns.interrogator))
    freeform = SEPARATOR.join(text.encode("ascii") for text in columns.freeform)
    count = len(ids)
    lengths = {len(received), len(relative), len(interrogator), freeform.count(SEPARATOR) + 1}
    if lengths != {count}:
        raise FormatError("segment's columns differ in length")
    bounds = SegmentBounds(
        min(ids), max(ids), min(received), max(received), min(relative), max(relative),
        interrogator[0], interrogator[-1], shard, count,
    )  # fmt: skip
    head = _COUNTS.pack(_MERGED if key_shared else _MERGED_ALONE, count, 0)
    content = b"".join((head, *map(_pack, (ids, received, relative, interrogator)), freeform))
    return bounds, compress(content, MERGED_LEVEL)


def may_share_key(data: bytes) -> bool:
    """Whether the key of a segment may open other segments, too: older versions merged segments
    under one key. Only the first bytes are decompressed.

    Raises:
        FormatError: the content is not a segment.
    """
    head = decompress_head(data, _COUNTS.size)
    if len(head) < _COUNTS.size or head[0] not in {_ARRIVAL, _SORTED, _MERGED, _MERGED_ALONE}:
        raise FormatError("segment is cut short or of an unknown order")
    return head[0] == _MERGED


def decode_segment(bounds: SegmentBounds, data: bytes) -> SegmentColumns:
    """Open what `encode_segment` or `encode_merged` made.

    Raises:
        FormatError: the content is not a segment with these bounds.
    """
    content = decompress(data, MAX_CONTENT_BYTES)
    if len(content) < _COUNTS.size:
        raise FormatError("segment is cut short")
    order, count, run_count = _COUNTS.unpack_from(content)
    if order in {_MERGED, _MERGED_ALONE} and count == bounds.count:
        return _decode_merged(content, count)
    if count != bounds.count or bounds.last_id != bounds.first_id + (count - 1) * ID_STRIDE:
        raise FormatError("segment doesn't hold what its bounds say")
    runs_end = _COUNTS.size + _RUN.size * run_count
    offsets_end = runs_end + (4 * count if order == _SORTED else 0)
    width = 1 + 8 * count
    texts_start = offsets_end + 2 * width
    if order not in {_ARRIVAL, _SORTED} or len(content) < texts_start:
        raise FormatError("segment is cut short or of an unknown order")
    received = _received(content[_COUNTS.size : runs_end], count)
    ids: Sequence[int] = range(bounds.first_id, bounds.last_id + 1, ID_STRIDE)
    if order == _SORTED:
        positions = _positions(content[runs_end:offsets_end])
        ids = list(map(ids.__getitem__, positions))
        received = list(map(received.__getitem__, positions))
    relative = list(_unpack(content[offsets_end : offsets_end + width]))
    interrogator = list(_unpack(content[offsets_end + width : texts_start]))
    freeform = _texts(content, texts_start)
    if len(freeform) != count:
        raise FormatError("segment's columns differ in length")
    return SegmentColumns(ids, received, relative, interrogator, freeform)


def _decode_merged(content: bytes, count: int) -> SegmentColumns:
    width = 1 + 8 * count
    starts = [_COUNTS.size + number * width for number in range(_MERGED_COLUMNS + 1)]
    if len(content) < starts[-1]:
        raise FormatError("segment is cut short")
    ids, received, relative, interrogator = (
        list(_unpack(content[start : start + width])) for start in starts[:-1]
    )
    freeform = _texts(content, starts[-1])
    if len(freeform) != count:
        raise FormatError("segment's columns differ in length")
    return SegmentColumns(ids, received, relative, interrogator, freeform)


def _received(data: bytes, count: int) -> list[int]:
    runs = list(_RUN.iter_unpack(data))
    if sum(length for _, length in runs) != count:  # before memory is set aside for them
        raise FormatError("segment's columns differ in length")
    received: list[int] = []
    for moment, length in runs:
        received += [moment] * length
    return received


def _positions(data: bytes) -> "array[int]":
    positions = array("I", data)
    if max(positions, default=-1) >= len(positions):
        raise FormatError("segment's order names a reading that is not there")
    return positions


def _texts(content: bytes, start: int) -> Texts:
    # Piece by piece: a copy of all texts of a large segment would double its memory.
    pieces = range(start, len(content), _CHECKED_BYTES)
    if not all(content[piece : piece + _CHECKED_BYTES].isascii() for piece in pieces):
        raise FormatError("segment's texts are not ASCII")
    return Texts(content, start)
