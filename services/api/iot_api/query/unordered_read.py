"""The readings of a vault segment by segment, in any order, for aggregates.

An unordered read opens each segment once, however many segments overlap. An ordered read sorts the
readings of segments that overlap in time, and opens segments again if its buffer is too small.

Each reading is produced once. If a compaction replaces segments between two turns, the later turn
leaves out readings that were produced before. If two segments of one turn have readings with the
same id, the read raises SharedReadingError: use an ordered read then.
"""

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

from iot_cipher.encryption import SealedSegment
from iot_models.reading import Reading
from iot_models.segment import ID_STRIDE, SegmentBounds
from iot_stores.history import PageRange
from iot_stores.interval_index import Position

from .merge import ASCENDING, OpenSegment, Rows
from .pausable_read import Scan, SegmentBatch
from .readings import IdRanges, Overlap, Selection, opener

_ID_BYTES = 40
"""Approximate memory of a remembered id."""
_KEPT = 64
"""When a turn remembers the ids of this many segments, it first forgets the segments that no later
segment can overlap."""


class SharedReadingError(Exception):
    """Two stored segments have readings with the same id.

    Start again with an ordered read: it compares these readings, and yields equal readings once.
    """


@dataclass(frozen=True, slots=True)
class _Produced:
    end: Position
    """A position at or behind the last reading of the segment."""
    ids: Sequence[int]
    """The ids of the segment's readings, maybe without readings that the filter excludes."""

    @property
    def bytes(self) -> int:
        return 0 if isinstance(self.ids, range) else _ID_BYTES * len(self.ids)


class UnorderedRead:
    """An unordered read, in one or more turns. It remembers which readings it has yielded.

    Each turn has its own snapshot of the vault. Segments come in the order of their beginnings. A
    turn continues at the beginning of the last segment of the previous turn, because segments that
    were not opened yet may have readings from there on. The turn leaves out the readings that
    earlier turns have yielded.
    """

    def __init__(self, charge: Callable[[int], None]) -> None:
        """`charge` is called with each increase in memory for remembered ids, in bytes. It may
        raise UnavailableError, which ends the read.
        """
        self._charge = charge
        self._charged = 0
        self._ranges = IdRanges()
        self._produced: dict[SegmentBounds, _Produced] = {}
        """The segments of this turn that later segments may overlap."""
        self._before: dict[SegmentBounds, _Produced] = {}
        """Segments of earlier turns that may also have readings for this turn."""
        self._prune_at = _KEPT

    def combine(
        self, selection: Selection, segments: Iterable[SealedSegment], page_range: PageRange
    ) -> Generator[Sequence[Reading], None, None]:
        """Yield the batches of one turn. This is the `Selection.combine` of an unordered read."""
        page_range = selection.read_filter.narrow(page_range)
        open_segment = opener(selection, page_range, ASCENDING)
        scan = Scan(selection.read, ASCENDING, page_range)
        self._begin_turn(page_range.after)
        new = scan.watched(self._new_segments(segments))
        yield from self._batches(new, scan.noting(open_segment), page_range.after)

    def _batches(
        self, segments: Iterable[SealedSegment], open_segment: OpenSegment, after: Position | None
    ) -> Iterator[SegmentBatch]:
        """Yield the rows of each segment, without rows that an earlier turn has yielded.

        The turn continues behind position `after`. In `segments`, the segments that contain this
        position come first. The other segments follow, ordered by their first position.

        Raises:
            SharedReadingError: two segments have readings with the same id.
            UnavailableError: the memory of this process is used up.
        """
        for segment in segments:
            bounds = segment.bounds
            rows = open_segment(segment)
            self._keep(bounds, _Produced(ASCENDING.end(bounds), _ids_of(bounds, rows)))
            rows = self._new_rows(bounds, rows)
            begin = ASCENDING.begin(bounds)
            if len(rows):
                yield SegmentBatch(rows, begin if after is None else max(begin, after))

    def _begin_turn(self, after: Position | None) -> None:
        """Begin a turn that continues behind position `after`; None: at the first reading."""
        if after is not None:
            produced = (self._before | self._produced).items()
            self._before = {bounds: each for bounds, each in produced if each.end > after}
        self._ranges, self._produced = IdRanges(), {}

    def _new_segments(self, segments: Iterable[SealedSegment]) -> Iterator[SealedSegment]:
        """Yield the segments whose readings no earlier turn has yielded."""
        for segment in segments:
            produced = self._before.get(segment.bounds)
            if produced is None:
                yield segment
            else:
                self._keep(segment.bounds, produced)

    def _keep(self, bounds: SegmentBounds, produced: _Produced) -> None:
        """Remember the ids of a segment of this turn.

        Raises:
            SharedReadingError: another segment of this turn has one of these ids.
        """
        begin = ASCENDING.begin(bounds)
        if self._ranges.add(bounds) is not Overlap.NONE:
            ids = set(produced.ids)
            # Segments that share readings overlap in their positions and in their ids.
            for other in _overlapping(bounds, self._produced):
                if other.end >= begin and not ids.isdisjoint(other.ids):
                    raise SharedReadingError
        self._produced[bounds] = produced
        if len(self._produced) >= self._prune_at:
            self._produced = {
                each: kept for each, kept in self._produced.items() if kept.end >= begin
            }
            self._prune_at = _KEPT + 2 * len(self._produced)
            kept_bytes = sum(kept.bytes for kept in self._produced.values())
            self._charge(max(0, kept_bytes - self._charged))
            self._charged = max(kept_bytes, self._charged)

    def _new_rows(self, bounds: SegmentBounds, rows: Rows) -> Rows:
        earlier = set(chain.from_iterable(each.ids for each in _overlapping(bounds, self._before)))
        if not earlier:
            return rows
        return rows.selected([number not in earlier for number in rows.columns.ids])


def _ids_of(bounds: SegmentBounds, rows: Rows) -> Sequence[int]:
    if bounds.last_id - bounds.first_id == (bounds.count - 1) * ID_STRIDE:
        return range(bounds.first_id, bounds.last_id + 1, ID_STRIDE)
    return rows.columns.ids


def _overlapping(
    bounds: SegmentBounds, produced: dict[SegmentBounds, _Produced]
) -> Iterator[_Produced]:
    """Yield each segment of `produced` whose range of ids overlaps the range of `bounds`."""
    for other, each in produced.items():
        if other.first_id <= bounds.last_id and bounds.first_id <= other.last_id:
            yield each
