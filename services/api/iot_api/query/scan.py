"""Scans: reads that open many segments and find little in them."""

from collections.abc import Iterable, Iterator

from iot_cipher.sealed_segment import SealedSegment
from iot_stores.history import PageRange

from .merge import OpenSegment
from .pausable_read import NothingFoundError, PausableRead
from .read_order import Order
from .segment_rows import Rows


class Scan:
    """Ends a turn that opens one segment after the other and finds nothing in them."""

    def __init__(self, read: PausableRead, order: Order, span: PageRange) -> None:
        self._read = read
        self._order = order
        self._after = None if span.after is None else order.place(span.after)
        self._found = False
        self._again = self._new = 0
        """Segments that a turn before opened, too, since they hold its end; and all others."""

    def watched(self, segments: Iterable[SealedSegment]) -> Iterator[SealedSegment]:
        """Hand segments on. Raises `NothingFoundError` when the turn is due, nothing was found, and
        most of what was opened was new: else a scan would never be through.
        """
        for segment in segments:
            begin = self._order.begin(segment.bounds)
            if self._after is not None and begin <= self._after:
                self._again += 1
            elif not self._found and self._new > self._again and self._read.is_due:
                raise NothingFoundError(self._order.just_before(begin))
            else:
                self._new += 1
            yield segment

    def noting(self, open_segment: OpenSegment) -> OpenSegment:
        """Open segments, and note whether there is anything in them."""

        def open_and_note(segment: SealedSegment) -> Rows:
            rows = open_segment(segment)
            self._found = self._found or len(rows) > 0
            return rows

        return open_and_note
