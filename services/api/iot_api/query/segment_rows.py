"""An opened segment's readings that are asked for, in order, made when they are needed."""

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
"""Of texts, what is made into readings at a time where that is possible."""
_READING_BYTES = 300
"""What a reading takes in memory beside its text, about."""


class Run(list[Reading]):
    """Readings with about `RUN_CHARACTERS` of texts, not counting the longest text at either end.

    Batches of this type need not be measured again before they are encoded.
    """


@dataclass(frozen=True, slots=True)
class Rows:
    """The readings of a segment from place `begin` on, before place `end`."""

    columns: SegmentColumns
    """Rising, whatever the order."""
    order: Order
    begin: int
    end: int

    def __len__(self) -> int:
        return self.end - self.begin

    @property
    def first_key(self) -> Position:
        """Where the first stands; there is one."""
        return self.order.place(self._at(self.end - 1 if self.order.descending else self.begin))

    @property
    def last_key(self) -> Position:
        """Where the last stands; there is one."""
        return self.order.place(self._at(self.begin if self.order.descending else self.end - 1))

    @property
    def bytes(self) -> int:
        """What the readings take in memory, about."""
        texts = self.columns.freeform
        size = texts.size if isinstance(texts, Texts) else sum(map(len, texts))
        return len(self) * (size // max(1, len(self.columns.ids)) + _READING_BYTES)

    def since(self, key: Position) -> "Rows":
        """Those from a key on."""
        at = self.order.place(key)
        if self.order.descending:
            return replace(self, end=max(self.begin, min(self.end, self._places(at, behind=True))))
        return replace(self, begin=min(self.end, max(self.begin, self._places(at, behind=False))))

    def before(self, key: Position) -> "Rows":
        """Those before a key."""
        at = self.order.place(key)
        if self.order.descending:
            return replace(
                self, begin=min(self.end, max(self.begin, self._places(at, behind=True)))
            )
        return replace(self, end=max(self.begin, min(self.end, self._places(at, behind=False))))

    def first(self, count: int) -> "Rows":
        """The first so many."""
        if self.order.descending:
            return replace(self, begin=max(self.begin, self.end - count))
        return replace(self, end=min(self.end, self.begin + count))

    def meeting(self, read_filter: ReadFilter) -> "Rows":
        """Those that a question asks for."""
        columns = self.columns
        meets = [
            read_filter.relative_low <= relative <= read_filter.relative_high
            and received >= read_filter.received_low
            for relative, received in zip(columns.relative, columns.received, strict=True)
        ]
        columns = SegmentColumns(
            list(compress(columns.ids, meets)),
            list(compress(columns.received, meets)),
            list(compress(columns.relative, meets)),
            list(compress(columns.interrogator, meets)),
            list(compress(columns.freeform, meets)),
        )
        return Rows(columns, self.order, sum(meets[: self.begin]), sum(meets[: self.end]))

    def readings(self) -> list[Reading]:
        """All of them, in order."""
        if not len(self):
            return []
        readings = self.columns.cut(slice(self.begin, self.end)).readings()
        if self.order.descending:
            readings.reverse()
        return readings

    def runs(self) -> Iterator[list[Reading]]:
        """All of them, in order, some at a time."""
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
                del run  # a giant text must not stay while the next one is decoded
                end = begin
                if end <= self.begin:
                    return
        else:
            begin = self.begin
            for run in texts.runs(RUN_CHARACTERS, begin):
                end = min(begin + len(run), self.end)
                yield Run(self._run(slice(begin, end), run[: end - begin]))
                del run  # likewise
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

    def _places(self, at: Position, *, behind: bool) -> int:
        """How many stand before a position; with `behind`, it is counted, too."""
        find = bisect_right if behind else bisect_left
        return find(range(len(self.columns.ids)), at, key=self._at)

    def _at(self, place: int) -> Position:
        return self.columns.interrogator[place], self.columns.ids[place]
