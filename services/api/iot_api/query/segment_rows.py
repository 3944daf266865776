"""Rows of a decrypted segment. `Reading` objects are created only for rows that are returned."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import compress

from iot_models.reading import Reading
from iot_models.segment import SegmentColumns, Texts
from iot_stores.history import ReadFilter
from iot_stores.interval_index import Position

from .read_order import Order

RUN_CHARACTERS = 2**17
"""Texts that are decoded at a time, where a segment allows it."""
_READING_BYTES = 300
"""Approximate memory of a reading without its text."""


class Run(list[Reading]):
    """A batch whose texts have about `RUN_CHARACTERS`, apart from the text at either end.

    The encoder need not measure such a batch again.
    """


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

    def since(self, key: Position) -> "Rows":
        """Return the rows from a key on."""
        at = self.order.key_of(key)
        if self.order.descending:
            return replace(self, end=max(self.begin, min(self.end, self._index(at, behind=True))))
        return replace(self, begin=min(self.end, max(self.begin, self._index(at, behind=False))))

    def before(self, key: Position) -> "Rows":
        """Return the rows before a key."""
        at = self.order.key_of(key)
        if self.order.descending:
            return replace(self, begin=min(self.end, max(self.begin, self._index(at, behind=True))))
        return replace(self, end=max(self.begin, min(self.end, self._index(at, behind=False))))

    def first(self, count: int) -> "Rows":
        """Return the first `count` rows."""
        if self.order.descending:
            return replace(self, begin=max(self.begin, self.end - count))
        return replace(self, end=min(self.end, self.begin + count))

    def matching(self, read_filter: ReadFilter) -> "Rows":
        """Return the rows that pass a filter."""
        columns = self.columns
        matches = [
            read_filter.relative_low <= relative <= read_filter.relative_high
            and received >= read_filter.received_low
            for relative, received in zip(columns.relative, columns.received, strict=True)
        ]
        columns = SegmentColumns(
            list(compress(columns.ids, matches)),
            list(compress(columns.received, matches)),
            list(compress(columns.relative, matches)),
            list(compress(columns.interrogator, matches)),
            list(compress(columns.freeform, matches)),
        )
        return Rows(columns, self.order, sum(matches[: self.begin]), sum(matches[: self.end]))

    def readings(self) -> list[Reading]:
        """Return all rows as readings, in order."""
        if not len(self):
            return []
        readings = self.columns.cut(slice(self.begin, self.end)).readings()
        if self.order.descending:
            readings.reverse()
        return readings

    def runs(self) -> Iterator[list[Reading]]:
        """Yield all rows as readings, in order, in batches."""
        texts = self.columns.freeform
        if not isinstance(texts, Texts):
            yield self.readings()
        elif self.order.descending:
            end = self.end
            for run in texts.runs_from_end(RUN_CHARACTERS, len(self.columns.ids) - end):
                begin = max(self.begin, end - len(run))
                readings = self._run(slice(begin, end), run[len(run) - (end - begin) :])
                yield Run(readings[::-1])
                del readings
                del run  # free a huge text before the next one is decoded
                end = begin
                if end <= self.begin:
                    return
        else:
            begin = self.begin
            for run in texts.runs(RUN_CHARACTERS, begin):
                end = min(begin + len(run), self.end)
                yield Run(self._run(slice(begin, end), run[: end - begin]))
                del run  # as above
                begin = end
                if begin >= self.end:
                    return

    def _run(self, part: slice, texts: list[str]) -> list[Reading]:
        columns = self.columns
        return SegmentColumns(
            columns.ids[part],
            columns.received[part],
            columns.relative[part],
            columns.interrogator[part],
            texts,
        ).readings()

    def _index(self, at: Position, *, behind: bool) -> int:
        """Count the rows before a position; with `behind`, count a row at the position, too."""
        find = bisect_right if behind else bisect_left
        return find(range(len(self.columns.ids)), at, key=self._at)

    def _at(self, index: int) -> Position:
        return self.columns.interrogator[index], self.columns.ids[index]
