"""Scans: reads that open many segments and find few readings in them."""

from collections.abc import Iterable, Iterator

from iot_cipher.sealed_segment import SealedSegment
from iot_stores.history import PageRange

from .merge import OpenSegment
from .pausable_read import NothingFoundError, PausableRead
from .read_order import Order
from .segment_rows import Rows


class Scan:
    """Ends a turn that has found nothing for too long.

    A turn ends between two batches. A read that finds nothing has no batch, and would keep its slot
    and its transaction until it has opened the whole vault.
    """

    def __init__(self, read: PausableRead, order: Order, page_range: PageRange) -> None:
        self._read = read
        self._order = order
        self._after = None if page_range.after is None else order.key_of(page_range.after)
        self._found = False
        self._reopened = self._new = 0
        """Segments that overlap the end of the turn before, and were opened by it; all others."""

    def watched(self, segments: Iterable[SealedSegment]) -> Iterator[SealedSegment]:
        """Pass segments on.

        Raises:
            NothingFoundError: the turn is due and nothing was found. Not before most of the opened
                segments were new: otherwise a scan would not get ahead.
        """
        for segment in segments:
            begin = self._order.begin(segment.bounds)
            if self._after is not None and begin <= self._after:
                self._reopened += 1
            elif not self._found and self._new > self._reopened and self._read.is_due:
                raise NothingFoundError(self._order.just_before(begin))
            else:
                self._new += 1
            yield segment

    def noting(self, open_segment: OpenSegment) -> OpenSegment:
        """Return `open_segment`, with a note of whether it returned any reading."""

        def open_and_note(segment: SealedSegment) -> Rows:
            rows = open_segment(segment)
            self._found = self._found or len(rows) > 0
            return rows

        return open_and_note
