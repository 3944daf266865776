"""Reading back: which segments answer a question, where they are, and what is in them."""

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from itertools import compress

from redis.exceptions import RedisError

from iot_cipher.sealed_segment import SealedSegment, decrypt_segment
from iot_cipher.vault import OpenVault
from iot_models import metrics
from iot_models.errors import DecryptionError, FormatError
from iot_models.reading import Reading
from iot_models.segment import SegmentBounds, decode_segment
from iot_stores import history
from iot_stores.history import Question
from iot_stores.hot_window import HotWindow
from iot_stores.postgres import Pool

from .merge import merge, order

MOST_HELD = 50_000
"""The last n readings are put in order in memory up to this n; beyond it they are streamed."""

Batches = Iterator[list[Reading]]

_log = logging.getLogger(__name__)


class Readings:
    """Reads a vault's readings, by (interrogator timestamp, id), in batches of some thousands.

    Every method answers as of one moment, and raises as it is iterated:
        DecryptionError, FormatError: a segment is damaged; what came before it is right.
        psycopg.Error: Postgres is away.
    """

    def __init__(
        self, pool: Pool, hot_window: HotWindow, *, shards: int, clock: Callable[[], float]
    ) -> None:
        self._pool = pool
        self._hot_window = hot_window
        self._shards = shards
        self._clock = clock
        self._sources = metrics.counter("iot_reads_total")

    def select(self, vault: OpenVault, question: Question) -> Batches:
        """The readings within a question's bounds, from Postgres."""
        self._sources.labels("postgres").inc()
        with (
            self._pool.connection() as connection,
            closing(history.select(connection, vault.vault_id, question)) as segments,
        ):
            yield from merge(segments, _opener(vault, question))

    def last_seconds(self, vault: OpenVault, seconds: int) -> Batches:
        """What was received in the last `seconds`: from the hot window if it holds all of that."""
        covered = self._covered(vault, seconds)
        if covered is None:
            begin = max(1, int(self._clock() * 1000) - seconds * 1000)
            yield from self.select(vault, Question(received_low=begin))
            return
        begin, found = covered
        self._sources.labels("hot_window").inc()
        question = Question(received_low=begin)
        yield from merge(self._hot_segments(vault, found), _opener(vault, question))

    def latest(self, vault: OpenVault, count: int) -> Batches:
        """The last `count` readings of the vault's order."""
        if count <= 0:
            return
        self._sources.labels("postgres").inc()
        with self._pool.connection() as connection:
            if count <= MOST_HELD:
                with closing(history.select_latest(connection, vault.vault_id)) as segments:
                    yield _last(segments, _opener(vault, Question()), count)
                return
            with (
                history.snapshot(connection),
                closing(history.select(connection, vault.vault_id, Question())) as segments,
            ):
                total = history.count(connection, vault.vault_id)
                yield from _skip(merge(segments, _opener(vault, Question())), total - count)

    def max_relative_timestamp(self, vault: OpenVault | None = None) -> int | None:
        """The greatest relative timestamp, of one vault or of all; None when there is none."""
        with self._pool.connection() as connection:
            vault_id = None if vault is None else vault.vault_id
            return history.max_relative_timestamp(connection, vault_id)

    def _covered(self, vault: OpenVault, seconds: int) -> tuple[int, list[SegmentBounds]] | None:
        """From when, and which segments; None when the hot window can't say."""
        try:
            begin = self._hot_window.covers(vault.shard(self._shards), seconds)
            return (
                None if begin is None else (begin, self._hot_window.bounds(vault.vault_id, begin))
            )
        except RedisError as error:
            _log.warning("the hot window is not used, Redis is away: %s", error)
            return None

    def _hot_segments(
        self, vault: OpenVault, found: list[SegmentBounds]
    ) -> Iterator[SealedSegment]:
        found.sort(key=lambda bounds: (bounds.interrogator_min, bounds.first_id))
        payloads = iter(self._hot_window.payloads(vault.vault_id, found))
        for bounds in found:
            payload = _next(payloads)
            if payload is not None:
                yield SealedSegment(vault.vault_id, bounds, payload)
                continue
            with self._pool.connection() as connection:
                evicted = history.select_one(connection, vault.vault_id, bounds.first_id)
            if evicted is not None:
                yield evicted


def _next(payloads: Iterator[bytes | None]) -> bytes | None:
    """None for what is evicted, and for all that is left once the hot window is away."""
    try:
        return next(payloads, None)
    except RedisError as error:
        _log.warning("the hot window is not used any further, Redis is away: %s", error)
        return None


def _opener(vault: OpenVault, question: Question) -> Callable[[SealedSegment], list[Reading]]:
    def open_segment(segment: SealedSegment) -> list[Reading]:
        bounds = segment.bounds
        try:
            columns = decode_segment(bounds, decrypt_segment(vault, bounds, segment.payload))
        except (DecryptionError, FormatError):
            metrics.counter("iot_damaged_total").labels("segment").inc()
            _log.error("segment %s/%d can't be opened", segment.vault_id, bounds.first_id)
            raise
        readings = columns.readings()
        if question.includes(bounds):
            return readings
        wanted = [
            question.relative_low <= relative <= question.relative_high
            and received >= question.received_low
            for relative, received in zip(columns.relative, columns.received, strict=True)
        ]
        return list(compress(readings, wanted))

    return open_segment


def _last(
    segments: Iterable[SealedSegment],
    open_segment: Callable[[SealedSegment], list[Reading]],
    count: int,
) -> list[Reading]:
    """The last `count` of segments that come by falling (interrogator_max, last_id)."""
    held: list[Reading] = []
    for segment in segments:
        end = (segment.bounds.interrogator_max, segment.bounds.last_id)
        if len(held) >= count and end < order(held[0]):
            break
        held += open_segment(segment)
        held.sort(key=order)
        del held[:-count]
    return held


def _skip(batches: Batches, count: int) -> Batches:
    for batch in batches:
        if count < len(batch):
            yield batch[max(0, count) :]
        count -= len(batch)
