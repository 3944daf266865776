"""Reads of a vault: find its segments in Postgres, decrypt them, and merge their readings."""

import logging
import time
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from enum import Enum
from functools import partial

from iot_api.limits.clients import Client
from iot_cipher.encryption import OpenVault, SealedSegment, decrypt_segment
from iot_models import metrics
from iot_models.errors import DecryptionError, FormatError
from iot_models.reading import INT64_MAX, Reading
from iot_models.segment import (
    ID_STRIDE,
    SegmentBounds,
    SegmentColumns,
    decode_segment,
    unpacked_size,
)
from iot_stores import history
from iot_stores.history import PageRange, ReadFilter, StoredSegment
from iot_stores.interval_index import Position
from iot_stores.postgres import Pool

from .merge import ASCENDING, BATCH, BUFFER_BYTES, DESCENDING, Order, Rows, merge, position
from .pausable_read import (
    Batches,
    Cursor,
    LargeSegmentBusyError,
    Page,
    PausableRead,
    ReadSlots,
    Scan,
    cursor_behind,
    first_readings,
    limited,
)

MAX_BUFFERED = 2_000
"""`latest` keeps the readings in memory if at most this many are requested, and otherwise streams
them."""
MAX_BUFFERED_CHARACTERS = 2**20
"""`latest` keeps no readings in memory if their `freeform` texts together have more characters."""
END_SECONDS = 0.5
"""Longest time for which a pause looks for the last reading of a page, checked after each batch.
Meanwhile, the read holds its slot, and the client receives nothing."""
MIN_BYTES = 4 * 2**20
"""Size in bytes of the merge buffer that each read gets, even if many reads are under way."""

MAX_RANGES = 2**16
"""Maximum number of ranges of known ids that are kept for each shard (1 MiB). With more, the half
that is farther from the last added range is dropped."""
LARGE_BYTES = 8 * 2**20
"""A segment with more bytes of content is large. A process decrypts one large segment at a time."""

NOBODY = Client("")
ALL, FIRST = ReadFilter(), Page()
_log = logging.getLogger(__name__)


Combine = Callable[
    ["Selection", Iterable[SealedSegment], PageRange], Generator[Sequence[Reading], None, None]
]
"""Produces the readings of segments within one turn. The segments are ordered by where they
begin."""


@dataclass(slots=True)
class Selection:
    """The readings that a read selects: those of a vault that pass a filter."""

    read: PausableRead
    vault: OpenVault
    read_filter: ReadFilter
    rows: type[Rows] = Rows
    """The class of the rows of opened segments."""
    combine: Combine | None = None
    """Produces the readings; None: the segments are merged in order."""
    found_overlap: bool = False
    """Whether two segments with common ids were found and reported."""

    def report_overlap(self, reading_id: int) -> None:
        """Count and log, once per read, that two segments have ids in common."""
        if self.found_overlap:
            return
        self.found_overlap = True
        metrics.counter("iot_damaged_total").labels("overlap").inc()
        why = "a deleted row was inserted again, or the database was rolled back"
        message = "segments of vault %s have ids in common, such as %d: %s"
        _log.error(message, self.vault.vault_id, reading_id, why)


class Overlap(Enum):
    """Whether a segment shares ids with an earlier one."""

    NONE = 0
    POSSIBLE = 1
    """The ranges of ids overlap, but one of them has gaps: maybe no id is in both segments."""
    CERTAIN = 2


class IdRanges:
    """The ranges of ids of the segments read so far."""

    def __init__(self) -> None:
        self._dense: dict[int, _Ranges] = {}
        self._sparse: dict[int, _Ranges] = {}

    def add(self, bounds: SegmentBounds) -> Overlap:
        """Add a segment; return whether it shares ids with earlier ones."""
        first, last = bounds.first_id, bounds.last_id
        residue = first % ID_STRIDE  # the shard: no id is in two shards
        dense = self._dense.setdefault(residue, _Ranges())
        sparse = self._sparse.setdefault(residue, _Ranges())
        if last - first == (bounds.count - 1) * ID_STRIDE:
            if dense.add(first, last):
                return Overlap.CERTAIN
            return Overlap.POSSIBLE if sparse.overlaps(first, last) else Overlap.NONE
        overlapped = dense.overlaps(first, last)
        return Overlap.POSSIBLE if sparse.add(first, last) or overlapped else Overlap.NONE


class _Ranges:
    """Disjoint ranges in order. Adjacent and overlapping ranges are merged."""

    def __init__(self) -> None:
        self._firsts: array[int] = array("q")
        self._lasts: array[int] = array("q")

    def overlaps(self, first: int, last: int) -> bool:
        """Return whether any range contains an id of `first` to `last`."""
        return bisect_left(self._lasts, first) < bisect_right(self._firsts, last)

    def add(self, first: int, last: int) -> bool:
        """Add a range; return whether it has ids in common with an earlier one."""
        firsts, lasts = self._firsts, self._lasts
        overlapped = self.overlaps(first, last)
        begin = bisect_left(lasts, first - ID_STRIDE)
        end = bisect_right(firsts, last + ID_STRIDE)
        if begin < end:
            first, last = min(first, firsts[begin]), max(last, lasts[end - 1])
        firsts[begin:end], lasts[begin:end] = array("q", [first]), array("q", [last])
        if len(firsts) > MAX_RANGES:
            half = MAX_RANGES // 2
            far = slice(half) if begin > half else slice(half, None)
            del firsts[far], lasts[far]
        return overlapped


class StoredReadings:
    """Reads of vaults from Postgres.

    A read yields batches of some thousands of readings, by interrogator timestamp, then id.

    Iterating over a read may raise:
        DecryptionError, FormatError: a segment is damaged; all readings yielded before are right.
        UnavailableError: too many reads are under way.
        psycopg.Error: Postgres is away.
    """

    def __init__(self, pool: Pool, slots: ReadSlots) -> None:
        self._pool = pool
        self._slots = slots
        self._sources = metrics.counter("iot_reads_total")
        self._running = 0

    def select(
        self,
        vault: OpenVault,
        within: ReadFilter,
        page: Page = FIRST,
        *,
        client: Client = NOBODY,
        rows: type[Rows] = Rows,
        combine: Combine | None = None,
    ) -> PausableRead:
        """Read the readings that pass `within`. `rows` and `combine` are as in `Selection`."""
        return PausableRead(
            self._slots,
            client,
            lambda read: self._select(Selection(read, vault, within, rows, combine), page),
        )

    def latest(
        self,
        vault: OpenVault,
        count: int,
        page: Page = FIRST,
        *,
        within: ReadFilter = ALL,
        client: Client = NOBODY,
    ) -> PausableRead:
        """Read the last `count` readings that pass `within`, by interrogator timestamp, then id.

        The first page fixes the positions of the first and the last of these readings. Later pages
        return all readings between the two positions, including readings stored since. A streamed
        descending read fixes the position of its end at its first pause (`_with_end`).
        """
        return PausableRead(
            self._slots,
            client,
            lambda read: self._latest(Selection(read, vault, within), count, page),
        )

    def max_relative_timestamp(self, vault: OpenVault | None = None) -> int | None:
        """Return the greatest relative timestamp of a vault; `vault=None`: of all vaults.

        Return None if there are no readings.
        """
        vault_id = None if vault is None else vault.vault_id
        return self._pool.run_idempotent(
            lambda connection: history.max_relative_timestamp(connection, vault_id)
        )

    def _select(self, selection: Selection, page: Page) -> Batches:
        self._sources.labels("postgres").inc()
        return (yield from selection.read.through(partial(self._stored_page, selection), page))

    def _stored_page(self, selection: Selection, page: Page) -> Batches:
        """Produce a page from Postgres, within one turn."""
        return (yield from limited(self._stored(selection, page.page_range()), page))

    def _latest(self, selection: Selection, count: int, page: Page) -> Batches:
        if count <= 0:
            return None
        if page.cursor is not None:
            return (yield from self._select(selection, page))
        self._sources.labels("postgres").inc()
        read, newest = selection.read, partial(self._newest, selection)
        if page.descending and page.limit is None and count > MAX_BUFFERED:
            yield from read.through(newest, Page(count, descending=True), _with_end)
            return None
        with closing(read.through(newest, Page(count, descending=True))) as batches:
            tail = _tail(batches, count)
        if tail is None:
            return None
        page = tail.bound(page)
        buffered = [tail.readings] if tail.readings is not None else []
        del tail

        def produce(page: Page) -> Batches:
            if buffered:  # for the first turn only: a paused read keeps nothing
                return _buffered(buffered.pop(), page)
            return self._stored_page(selection, page)

        return (yield from read.through(produce, page))

    def _newest(self, selection: Selection, page: Page) -> Batches:
        """Produce the last readings of the vault, newest first, up to the limit of the page."""
        if page.limit is None:  # `_with_end` fixed the end after an earlier turn
            return (yield from self._stored_page(selection, page))
        page_range = replace(page.page_range(), limit=page.limit)
        yield from first_readings(self._stored(selection, page_range), page.limit)
        return None

    def _stored(
        self, selection: Selection, page_range: PageRange
    ) -> Generator[Sequence[Reading], None, None]:
        vault_id, read_filter = selection.vault.vault_id, selection.read_filter
        combine = selection.combine or self._merged
        with (
            selection.read.slot(self._slots.postgres),
            self._pool.connection() as connection,
            closing(history.select(connection, vault_id, read_filter, page_range)) as segments,
        ):
            yield from combine(selection, segments, page_range)

    def _merged(
        self, selection: Selection, segments: Iterable[SealedSegment], page_range: PageRange
    ) -> Generator[Sequence[Reading], None, None]:
        page_range = selection.read_filter.narrow(page_range)
        order = DESCENDING if page_range.descending else ASCENDING
        batch = 0 if page_range.limit is None else min(page_range.limit, BATCH)
        with self._merge_buffer_share() as max_bytes:
            open_segment = opener(selection, page_range, order)
            scan = Scan(selection.read, order, page_range)
            yield from merge(
                scan.watched(segments),
                scan.noting(open_segment),
                order,
                batch=batch,
                max_bytes=max_bytes,
                may_repeat=partial(_may_repeat, selection, IdRanges()),
                report_overlap=selection.report_overlap,
            )

    @contextmanager
    def _merge_buffer_share(self) -> Iterator[Callable[[], int]]:
        """Yield a function that returns how many bytes this read may buffer.

        This is `BUFFER_BYTES` divided by the number of running reads, but at least `MIN_BYTES`.
        """
        self._running += 1
        try:
            yield lambda: max(MIN_BYTES, BUFFER_BYTES // max(1, self._running))
        finally:
            self._running -= 1


def opener(
    selection: Selection, page_range: PageRange, order: Order
) -> Callable[[SealedSegment], Rows]:
    """Return a function that opens a segment and returns its wanted rows, up to `page_range.limit`.

    `page_range` must be limited to the filter's interrogator timestamps (`ReadFilter.narrow`).
    Before the function opens a large segment, it claims the slot for large segments until the turn
    ends. It raises LargeSegmentBusyError if another read holds this slot, and DecryptionError or
    FormatError if the segment is damaged.
    """
    behind = None if page_range.after is None else _next(order.key_of(page_range.after))
    beyond = None if page_range.until is None else _next(order.key_of(page_range.until))

    def open_segment(segment: SealedSegment) -> Rows:
        # Let other greenlets run: a read may open many segments before its first batch.
        time.sleep(0)
        columns = _columns(selection.vault, segment, selection.read.claim_large_segment)
        opened = selection.rows(columns, order, 0, len(columns.ids))
        if behind is not None and order.begin(segment.bounds) < behind:
            opened = opened.since(behind)
        if beyond is not None and order.end(segment.bounds) >= beyond:
            opened = opened.before(beyond)
        if not selection.read_filter.includes(segment.bounds):
            opened = opened.matching(selection.read_filter)
        return opened if page_range.limit is None else opened.first(page_range.limit)

    return open_segment


def _next(key: tuple[int, int]) -> tuple[int, int]:
    """Return the smallest sort key greater than `key`."""
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
        history.note_damaged(segment.vault_id, bounds)
        raise


def _content(vault: OpenVault, segment: SealedSegment, claim_large: Callable[[], None]) -> bytes:
    payload: bytes | bytearray = segment.payload
    if isinstance(segment, StoredSegment):
        if (segment.size or 0) > LARGE_BYTES:
            claim_large()
        payload = segment.fetch()
    return decrypt_segment(vault, segment.bounds, payload)


def _may_repeat(selection: Selection, ranges: IdRanges, bounds: SegmentBounds) -> bool:
    """Return whether a segment may repeat readings of earlier segments, and add it to `ranges`.

    Log if the segment certainly has an id of an earlier segment.
    """
    overlap = ranges.add(bounds)
    if overlap is Overlap.CERTAIN:
        selection.report_overlap(bounds.first_id)
    return overlap is not Overlap.NONE


def _with_end(page: Page, batch: Sequence[Reading], rest: Batches) -> Page:
    """Return `page` with an end at the last reading of `rest`, in place of the limit.

    Return `page` unchanged if `rest` takes longer than `END_SECONDS`, or needs the slot for large
    segments while another read holds it. Then readings stored from now on count towards the limit,
    so the answer may lack its last readings.
    """
    last, due = batch[-1], time.monotonic() + END_SECONDS
    try:
        for later in rest:
            last = later[-1]
            if time.monotonic() > due:
                return page
    except LargeSegmentBusyError:
        return page
    cursor = page.cursor or Cursor((INT64_MAX, 2**53 - 1), descending=True)
    return replace(page, limit=None, cursor=replace(cursor, until=position(last)))


@dataclass(frozen=True, slots=True)
class _Tail:
    """The positions that bound the last readings of a vault."""

    first: Position
    last: Position
    readings: list[Reading] | None
    """The readings, ascending, if they fit in memory."""

    def bound(self, page: Page) -> Page:
        """Return `page`, limited to the readings from position `first` to position `last`."""
        order = DESCENDING if page.descending else ASCENDING
        begin, until = (self.last, self.first) if page.descending else (self.first, self.last)
        after = order.just_before(order.key_of(begin))
        return replace(page, cursor=Cursor(after, page.descending, until))


def _tail(batches: Batches, count: int) -> _Tail | None:
    """Return the bounds of the readings in `batches` (newest first); None without readings."""
    readings: list[Reading] | None = [] if count <= MAX_BUFFERED else None
    first = last = None
    size = 0
    for batch in batches:
        last = last or position(batch[0])
        first = position(batch[-1])
        if readings is not None:
            size += sum(len(reading.freeform) for reading in batch)
            readings = [*readings, *batch] if size <= MAX_BUFFERED_CHARACTERS else None
        del batch  # free its memory before the next one is produced
    if first is None or last is None:
        return None
    if readings is not None:
        readings.reverse()
    return _Tail(first, last, readings)


def _buffered(readings: list[Reading], page: Page) -> Batches:
    """Produce a page from readings in memory. `readings` must be in ascending order."""
    if page.descending:
        readings.reverse()
    batch = readings[: page.limit]
    yield batch
    return None if len(batch) == len(readings) else cursor_behind(batch[-1], page)
