"""Reads of the last seconds: from the hot window if it covers them, or else from Postgres."""

import logging
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial

from redis.exceptions import RedisError

from iot_api.limits.clients import Client
from iot_cipher.encryption import OpenVault, SealedSegment
from iot_models import tracing
from iot_models.errors import DecryptionError, FormatError
from iot_models.reading import Reading
from iot_models.segment import SegmentBounds
from iot_stores.history import PageRange, ReadFilter
from iot_stores.hot_window import HotWindow, SegmentEvictedError
from iot_stores.postgres import Pool
from iot_stores.store_states import report

from .merge import ASCENDING, DESCENDING, position
from .pausable_read import Batches, Page, PausableRead, Produce, ReadSlots, limited
from .readings import ALL, FIRST, NOBODY, Selection, StoredReadings

_log = logging.getLogger(__name__)


class Readings(StoredReadings):
    """Reads of vaults, from Postgres and from the hot window."""

    def __init__(
        self,
        pool: Pool,
        hot_window: HotWindow,
        *,
        shards: int,
        postgres_now: Callable[[], int],
        slots: ReadSlots,
    ) -> None:
        """`postgres_now` returns the time of Postgres in Unix milliseconds. While Redis is away,
        `last_seconds` counts back from this time.
        """
        super().__init__(pool, slots)
        self._hot_window = hot_window
        self._coverage = tracing.wrap("look into the hot window", hot_window.coverage)
        self._shards = shards
        self._postgres_now = postgres_now

    def last_seconds(
        self,
        vault: OpenVault,
        seconds: int,
        page: Page = FIRST,
        *,
        within: ReadFilter = ALL,
        client: Client = NOBODY,
    ) -> PausableRead:
        """Read the readings received in the last `seconds` that pass the filter `within`.

        The hot window serves the read if it covers all of the seconds, or else Postgres. Later
        pages count the seconds back from the time of the first page.
        """
        return PausableRead(
            self._slots,
            client,
            lambda read: self._last_seconds(Selection(read, vault, within), seconds, page),
        )

    def _last_seconds(self, selection: Selection, seconds: int, page: Page) -> Batches:
        fixed_begin = page.cursor.received_low if page.cursor else None
        begin, found = self._covered(selection.vault, seconds, fixed_begin)
        self._sources.labels("postgres" if found is None else "hot_window").inc()
        if begin is None:
            begin = max(0, self._postgres_now() - seconds * 1000)
        within = selection.read_filter
        read_filter = replace(within, received_low=max(begin, within.received_low))
        selection = replace(selection, read_filter=read_filter)
        if found is None:
            produce: Produce = partial(self._stored_page, selection)
        else:
            produce = self._hot_pages(selection, seconds, begin, found)
        last = yield from selection.read.through(produce, page)
        return last and replace(last, received_low=begin)

    def _hot_pages(
        self, selection: Selection, seconds: int, begin: int, found: Sequence[SegmentBounds]
    ) -> Produce:
        """Return a function that produces a page from the hot window, within one turn.

        The first turn reads the segments `found`. Each later turn looks for the segments again. If
        the hot window does not cover the rest of the page by then, the rest comes from Postgres.
        """
        of_first_turn = [found]

        def produce(page: Page) -> Batches:
            if of_first_turn:
                bounds: Sequence[SegmentBounds] | None = of_first_turn.pop()
            else:
                _, bounds = self._covered(selection.vault, seconds, begin)
            if bounds is None:
                return (yield from self._stored_page(selection, page))
            with selection.read.slot(self._slots.hot_window):
                hot = self._hot(selection, page.page_range(), bounds)
                return (yield from limited(hot, page))

        return produce

    def _covered(
        self, vault: OpenVault, seconds: int, fixed_begin: int | None
    ) -> tuple[int | None, Sequence[SegmentBounds] | None]:
        """Return the start of the last `seconds` (Unix milliseconds), and the segments since then.

        `fixed_begin` is the start, if an earlier page or turn has fixed it.

        If the hot window does not cover all of the seconds, the segments are None. If the hot
        window is damaged or Redis is away, the segments are None and the start is `fixed_begin`.
        """
        begin, bounds = fixed_begin, None
        try:
            shard = vault.shard(self._shards)
            coverage = self._coverage(vault.vault_id, shard, seconds, fixed_begin)
            begin, bounds = coverage.begin, coverage.bounds
        except RedisError as error:
            report(_log, "the hot window is not used", error)
        except FormatError as error:  # no writer wrote this
            _log.error("the hot window is damaged; reads use Postgres: %s", error)
        return begin, bounds

    def _hot(
        self, selection: Selection, page_range: PageRange, found: Sequence[SegmentBounds]
    ) -> Generator[Sequence[Reading], None, None]:
        """Read the hot window. If a segment is missing or can't be opened, go on from Postgres."""
        reached = page_range.after
        wanted = filter(selection.read_filter.may_match, found)
        try:
            # Close the generator before Postgres is read: it keeps all payloads that it fetched.
            with closing(self._hot_segments(selection.vault, page_range, wanted)) as segments:
                for batch in self._merged(selection, segments, page_range):
                    reached = position(batch[-1])
                    yield batch
                    del batch  # free its memory before the next one is produced
        except (SegmentEvictedError, RedisError, DecryptionError, FormatError) as error:
            # Later segments come from Postgres, too: a compaction may have merged them with the
            # missing segment. A segment that can't be opened is damaged, or was overwritten after
            # Postgres lost a drain. Then the repeated drain wrote a segment with the same first id,
            # and the index has the bounds of the lost segment.
            _log.info("a read continues from Postgres: %s", error)
        else:
            return
        yield from self._stored(selection, replace(page_range, after=reached))

    def _hot_segments(
        self, vault: OpenVault, page_range: PageRange, bounds_found: Iterable[SegmentBounds]
    ) -> Generator[SealedSegment, None, None]:
        order = DESCENDING if page_range.descending else ASCENDING
        found = sorted(bounds_found, key=order.begin)
        if page_range.after is not None:
            after = order.key_of(page_range.after)
            found = [bounds for bounds in found if order.end(bounds) > after]
        return self._hot_window.segments(vault.vault_id, found)
