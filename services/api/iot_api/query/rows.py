"""The rows of decrypted segments, in the order of a read.

`Order` gives keys that increase in the order of the read. `Rows` are rows of a decrypted segment;
`Reading` objects are created only for rows that are returned.
"""

from abc import abstractmethod
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Self

from iot_models.reading import Reading
from iot_models.segment import SegmentBounds, SegmentColumns, Texts, split_texts
from iot_stores.history import ReadFilter
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
        begin, end = sum(kept[: self.begin]), sum(kept[: self.end])
        return replace(self, columns=self.columns.selected(kept), begin=begin, end=end)

    def readings(self) -> list[Reading]:
        """Return all rows as readings, in order."""
        if not len(self):
            return []
        places = slice(self.begin, self.end)
        readings = self._readings_at(places, self.columns.freeform[places])
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
        readings = self._readings_at(places, split_texts(texts))
        return Run(readings[::-1] if self.order.descending else readings)

    def _readings_at(self, places: slice, texts: Sequence[str]) -> list[Reading]:
        return self.columns.readings_at(places, texts)

    def _index(self, at: Position, *, behind: bool) -> int:
        """Count the rows before a position; with `behind`, count a row at the position, too."""
        find = bisect_right if behind else bisect_left
        return find(range(len(self.columns.ids)), at, key=self._at)

    def _at(self, index: int) -> Position:
        return self.columns.interrogator[index], self.columns.ids[index]
