"""Decrypt segments and select the requested rows in the requested order.

`Order` gives keys that increase in the order of the read. `Rows` are rows of a decrypted segment;
`Reading` objects are created only for rows that are returned.
"""

import logging
import time
from abc import abstractmethod
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import compress
from operator import attrgetter
from typing import Self, overload

from iot_cipher.encryption import OpenVault, SealedSegment, decrypt_segment
from iot_models import metrics
from iot_models.compression import unpacked_size
from iot_models.errors import DecryptionError, FormatError
from iot_models.reading import Reading
from iot_models.segment import SegmentBounds, SegmentColumns, Texts, decode_segment, split_texts
from iot_stores.history import PageRange, ReadFilter, StoredSegment
from iot_stores.interval_index import Position

position = attrgetter("interrogator_timestamp", "id")
"""The position of a reading."""


@dataclass(frozen=True, slots=True)
class Order:
    """Keys of readings and of segments that increase in this order.

    A key is the position, with both numbers negated for the descending order.
    """

    descending: bool
    key: Callable[[Reading], Position]

    def key_of(self, at: Position) -> Position:
        """Return the key of a position, or the position of a key."""
        return (-at[0], -at[1]) if self.descending else at

    def just_before(self, key: Position) -> Position:
        """Return the position directly before the position with this key."""
        at, number = self.key_of(key)
        return at, number + 1 if self.descending else number - 1

    def begin(self, bounds: SegmentBounds) -> Position:
        """Return a key that is not after any reading of a segment."""
        if self.descending:
            return -bounds.interrogator_max, -bounds.last_id
        return bounds.interrogator_min, bounds.first_id

    def end(self, bounds: SegmentBounds) -> Position:
        """Return a key that is not before any reading of a segment."""
        if self.descending:
            return -bounds.interrogator_min, -bounds.first_id
        return bounds.interrogator_max, bounds.last_id


def _descending_key(reading: Reading) -> Position:
    return -reading.interrogator_timestamp, -reading.id


ASCENDING = Order(descending=False, key=position)
DESCENDING = Order(descending=True, key=_descending_key)


_READING_BYTES = 300
"""Approximate memory of a reading without its text."""


class Run(list[Reading]):
    """A batch whose texts have about `RUN_CHARACTERS`, apart from the text at either end.

    The encoder need not measure such a batch again.
    """


class ColumnRun(Sequence[Reading]):
    """A batch like `Run` that exists as columns until a reading is asked for."""

    @abstractmethod
    def position_of(self, place: int) -> Position:
        """Return the position of a reading."""


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of a segment from index `begin` up to index `end`, exclusive."""

    columns: SegmentColumns
    """Ascending, in either order."""
    order: Order
    begin: int
    end: int

    def __len__(self) -> int:
        return self.end - self.begin

    @property
    def first_key(self) -> Position:
        """The key of the first row. There must be one."""
        return self.order.key_of(self._at(self.end - 1 if self.order.descending else self.begin))

    @property
    def last_key(self) -> Position:
        """The key of the last row. There must be one."""
        return self.order.key_of(self._at(self.begin if self.order.descending else self.end - 1))

    @property
    def bytes(self) -> int:
        """Approximate memory of all rows as readings."""
        texts = self.columns.freeform
        size = texts.size if isinstance(texts, Texts) else sum(map(len, texts))
        return len(self) * (size // max(1, len(self.columns.ids)) + _READING_BYTES)

    def since(self, key: Position) -> Self:
        """Return the rows from a key on."""
        at = self.order.key_of(key)
        if self.order.descending:
            return replace(self, end=max(self.begin, min(self.end, self._index(at, behind=True))))
        return replace(self, begin=min(self.end, max(self.begin, self._index(at, behind=False))))

    def before(self, key: Position) -> Self:
        """Return the rows before a key."""
        at = self.order.key_of(key)
        if self.order.descending:
            return replace(self, begin=min(self.end, max(self.begin, self._index(at, behind=True))))
        return replace(self, end=max(self.begin, min(self.end, self._index(at, behind=False))))

    def first(self, count: int) -> Self:
        """Return the first `count` rows."""
        if self.order.descending:
            return replace(self, begin=max(self.begin, self.end - count))
        return replace(self, end=min(self.end, self.begin + count))

    def matching(self, read_filter: ReadFilter) -> Self:
        """Return the rows that pass a filter."""
        columns = self.columns
        return self.selected(
            [
                read_filter.admits(relative, received)
                for relative, received in zip(columns.relative, columns.received, strict=True)
            ]
        )

    def selected(self, kept: Sequence[bool]) -> Self:
        """Return the rows that are to be kept, by the index in the columns."""
        columns = self.columns
        columns = SegmentColumns(
            list(compress(columns.ids, kept)),
            list(compress(columns.received, kept)),
            list(compress(columns.relative, kept)),
            list(compress(columns.interrogator, kept)),
            list(compress(columns.freeform, kept)),
        )
        begin, end = sum(kept[: self.begin]), sum(kept[: self.end])
        return replace(self, columns=columns, begin=begin, end=end)

    def readings(self) -> list[Reading]:
        """Return all rows as readings, in order."""
        if not len(self):
            return []
        readings = self._readings_of(self.columns.cut(slice(self.begin, self.end)))
        if self.order.descending:
            readings.reverse()
        return readings

    def runs(self) -> Iterator[Sequence[Reading]]:
        """Yield all rows as readings, in order, in batches."""
        texts = self.columns.freeform
        if not isinstance(texts, Texts):
            yield self.readings()
            return
        for places, run in texts.runs(self.begin, self.end, descending=self.order.descending):
            yield self._run(places, run)

    def _run(self, places: slice, texts: memoryview) -> Sequence[Reading]:
        """Return the readings at these places, whose joined texts are given."""
        columns = self.columns
        readings = self._readings_of(
            SegmentColumns(
                columns.ids[places],
                columns.received[places],
                columns.relative[places],
                columns.interrogator[places],
                split_texts(texts),
            )
        )
        return Run(readings[::-1] if self.order.descending else readings)

    @staticmethod
    def _readings_of(columns: SegmentColumns) -> list[Reading]:
        return columns.readings()

    def _index(self, at: Position, *, behind: bool) -> int:
        """Count the rows before a position; with `behind`, count a row at the position, too."""
        find = bisect_right if behind else bisect_left
        return find(range(len(self.columns.ids)), at, key=self._at)

    def _at(self, index: int) -> Position:
        return self.columns.interrogator[index], self.columns.ids[index]


class SegmentBatch(Sequence[Reading]):
    """A batch of all wanted rows of one segment. The next batch may hold earlier readings."""

    def __init__(self, rows: Rows, after: Position) -> None:
        """After this batch, all readings up to position `after` were produced."""
        self.rows = rows
        self.after = after

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, place: int) -> Reading: ...

    @overload
    def __getitem__(self, place: slice) -> list[Reading]: ...

    def __getitem__(self, place: int | slice) -> Reading | list[Reading]:
        return self.rows.readings()[place]


LARGE_BYTES = 8 * 2**20
"""A segment with more content than this is large: a process decrypts one at a time."""

_log = logging.getLogger(__name__)


def opener(
    vault: OpenVault,
    read_filter: ReadFilter,
    page_range: PageRange,
    order: Order,
    claim_large: Callable[[], None] = lambda: None,
    *,
    rows: type[Rows] = Rows,
) -> Callable[[SealedSegment], Rows]:
    """Return a function that opens one segment, and returns its first `page_range.limit` readings.

    Bounds of the interrogator timestamp must be in `page_range` already (`ReadFilter.narrow`).

    `claim_large` is called before a large segment is fetched or decompressed; it may raise. The
    returned function raises DecryptionError or FormatError if the segment is damaged.
    """
    behind = None if page_range.after is None else _next(order.key_of(page_range.after))
    beyond = None if page_range.until is None else _next(order.key_of(page_range.until))

    def open_segment(segment: SealedSegment) -> Rows:
        time.sleep(
            0
        )  # let other greenlets run: a read may open many segments before its first batch
        columns = _columns(vault, segment, claim_large)
        opened = rows(columns, order, 0, len(columns.ids))
        if behind is not None and order.begin(segment.bounds) < behind:
            opened = opened.since(behind)
        if beyond is not None and order.end(segment.bounds) >= beyond:
            opened = opened.before(beyond)
        if not read_filter.includes(segment.bounds):
            opened = opened.matching(read_filter)
        return opened if page_range.limit is None else opened.first(page_range.limit)

    return open_segment


def _next(key: tuple[int, int]) -> tuple[int, int]:
    """Return the smallest key after this one."""
    return key[0], key[1] + 1


def _columns(
    vault: OpenVault, segment: SealedSegment, claim_large: Callable[[], None]
) -> SegmentColumns:
    bounds = segment.bounds
    try:
        content = _content(vault, segment, claim_large)
        if unpacked_size(content) > LARGE_BYTES:
            claim_large()
        return decode_segment(bounds, content)
    except (DecryptionError, FormatError):
        metrics.counter("iot_damaged_total").labels("segment").inc()
        _log.error("segment %s/%d can't be opened", segment.vault_id, bounds.first_id)
        raise


def _content(vault: OpenVault, segment: SealedSegment, claim_large: Callable[[], None]) -> bytes:
    payload: bytes | bytearray = segment.payload
    if isinstance(segment, StoredSegment):
        if (segment.size or 0) > LARGE_BYTES:
            claim_large()
        payload = segment.fetch()
    return decrypt_segment(vault, segment.bounds, payload)
