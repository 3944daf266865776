"""Plan compaction: choose the small segments of an open vault that a writer should merge.

The API makes the orders: only a process that has the vault open can give a writer the segments'
keys.
"""

import logging
import os
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from queue import Empty, Full, Queue

import psycopg
from redis.exceptions import RedisError

from iot_cipher.encryption import SALT_BYTES, OpenVault
from iot_cipher.keyring import Keyring
from iot_cipher.sealed_order import seal_order
from iot_models.compaction_order import CompactionOrder, Target
from iot_models.errors import DecryptionError
from iot_stores.compaction_orders import CompactionOrders
from iot_stores.months import DAY_MS
from iot_stores.postgres import Pool
from iot_stores.small_segments import SegmentName, SmallSegment, find_small

from .compaction_sources import VerifiedSource, verify_sources

MIN_SEGMENTS = 64
"""If a day has not ended, either none or at least this many of its small segments are merged."""
MAX_SEGMENTS, MAX_READINGS, MAX_BYTES = 1024, 8192, 4 * 2**20
"""Maximum number of segments, of readings and of encrypted bytes in one order. A writer carries out
an order of this size in about a tenth of a second."""
MAX_FOUND = 2048
"""Maximum number of small segments of a vault that are planned at a time."""
MARGIN_MS = 60_000
"""Segments are merged no earlier than this time after they left the hot window. While a segment is
in the hot window, it must have the same id in Postgres: an erasure finds the ids of segments in
Postgres, and deletes the segments with these ids from the hot window."""
MAX_VAULTS = 128
"""Length of the queue of vaults to plan."""
_RECENT_MS = 2 * DAY_MS
_CLOSE_SECONDS = 2.0

_log = logging.getLogger(__name__)


def plan(small: Sequence[SmallSegment], before: int) -> Iterator[list[SmallSegment]]:
    """Yield groups of small segments of a vault to merge, one group per order.

    All segments of a group begin on the same UTC day, by time of receipt. So retention deletes a
    merged reading at most a day late.

    If a day has ended by `before` (Unix milliseconds), all its small segments are merged. Of any
    other day, only the n smallest segments are merged. n is as large as possible, but the largest
    of the n segments must not have more than half of the readings of all n segments. If n is less
    than `MIN_SEGMENTS`, no segment of the day is merged. These rules limit how often a reading is
    rewritten.
    """
    days: dict[int, list[SmallSegment]] = defaultdict(list)
    for segment in small:
        days[segment.received_min // DAY_MS].append(segment)
    for day, segments in days.items():
        over = (day + 1) * DAY_MS <= before
        chosen = segments if over else _smallest(segments)
        for order in _portions(chosen):
            if len(order) > 1:
                yield order


def _smallest(segments: Sequence[SmallSegment]) -> list[SmallSegment]:
    by_count = sorted(segments, key=lambda segment: segment.count)
    readings, enough = 0, 0
    for number, segment in enumerate(by_count, 1):
        readings += segment.count
        if readings >= 2 * segment.count:
            enough = number
    if enough < MIN_SEGMENTS:
        return []
    return sorted(by_count[:enough], key=lambda segment: segment.received_min)


def _portions(segments: Sequence[SmallSegment]) -> Iterator[list[SmallSegment]]:
    portion: list[SmallSegment] = []
    readings = size = 0
    for segment in segments:
        readings += segment.count
        size += segment.size
        if len(portion) == MAX_SEGMENTS or readings > MAX_READINGS or size > MAX_BYTES:
            yield portion
            portion, readings, size = [], segment.count, segment.size
        portion.append(segment)
    yield portion


class CompactionPlanner:
    """A background thread that makes compaction orders for open vaults, one vault after the other.

    A failure is not retried: the vault is planned again when it is next opened or renewed.
    """

    def __init__(
        self,
        pool: Pool,
        orders: CompactionOrders,
        keyring: Callable[[], Keyring],
        *,
        hot_window_seconds: int,
        after_seconds: float = 0.0,
    ) -> None:
        """`offer` ignores all vaults for `after_seconds` from now: in a rolling update, processes
        of a version that can't read merged segments may still run.
        """
        self._pool = pool
        self._orders = orders
        self._keyring = keyring
        self._from = time.monotonic() + after_seconds
        self._dropped_ms = hot_window_seconds * 1000 + MARGIN_MS
        self._vaults: Queue[OpenVault | None] = Queue(MAX_VAULTS)
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def offer(self, vault: OpenVault) -> None:
        """Queue a vault for planning, if the queue has room. Never blocks and never fails."""
        if time.monotonic() < self._from:
            return
        try:
            self._vaults.put_nowait(vault)
        except Full:
            return
        with self._lock:
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="compaction", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """Stop the thread, even if vaults are queued."""
        with self._lock:
            thread, self._thread = self._thread, None
        if thread is not None:
            _empty(self._vaults)
            self._vaults.put(None)
            thread.join(_CLOSE_SECONDS)

    def _run(self) -> None:
        while (vault := self._vaults.get()) is not None:
            try:
                self.look(vault)
            except (RedisError, psycopg.Error, DecryptionError) as error:
                _log.info("no compaction is planned now: %s", error)

    def look(self, vault: OpenVault) -> int:
        """Make compaction orders for a vault, and return their number.

        Do nothing if the vault was planned recently.

        Raises:
            RedisError, psycopg.Error: a store is away.
        """
        name = vault.vault_id.bytes
        if not self._orders.claim_scan(name):
            return 0
        before = self._orders.now() - self._dropped_ms
        recent = before - _RECENT_MS
        back = self._orders.claim_full_scan(name)
        since, more = 0 if back else recent, True
        planned: list[list[SmallSegment]] = []
        while more and not planned:
            with self._pool.connection() as connection:
                small = find_small(
                    connection, vault.vault_id, since=since, before=before, limit=MAX_FOUND
                )
            planned, verified = self._verified_plan(vault, small, before)
            # Days with one small segment have nothing to merge. Go on with the last segment: the
            # next ones may be of its day.
            more = len(small) == MAX_FOUND and small[-1].received_min > since
            if more:
                since = small[-1].received_min
        if back and more:
            self._orders.request_full_scan(name)
        elif back and all(segments[0].received_min >= recent for segments in planned):
            self._orders.postpone_full_scan(name)
        for made, segments in enumerate(planned):
            sources = [verified[segment.name] for segment in segments]
            if not self._orders.push(self._order(vault, sources)):
                return made
        return len(planned)

    def _verified_plan(
        self, vault: OpenVault, small: Sequence[SmallSegment], before: int
    ) -> tuple[list[list[SmallSegment]], dict[SegmentName, VerifiedSource]]:
        """Return the groups of `plan`, and their decrypted segments by name.

        If `verify_sources` leaves out a segment, plan the other segments again without it.
        """
        verified: dict[SegmentName, VerifiedSource] = {}
        while True:
            planned = list(plan(small, before))
            wanted = [
                segment for order in planned for segment in order if segment.name not in verified
            ]
            verified |= verify_sources(self._pool, vault, wanted)
            refused = {segment.name for segment in wanted} - verified.keys()
            if not refused:
                return planned, verified
            small = [segment for segment in small if segment.name not in refused]

    def _order(self, vault: OpenVault, sources: Sequence[VerifiedSource]) -> bytes:
        # The readings of one day of an order fit into one segment, so each day needs one key.
        days = set(chain.from_iterable(source.days for source in sources))
        salts = [os.urandom(SALT_BYTES) for _ in days]
        order = CompactionOrder(
            vault.vault_id.bytes,
            tuple(Target(salt, vault.chunk_key(salt)) for salt in salts),
            tuple(verified.source for verified in sources),
        )
        return seal_order(self._keyring(), order.encode())


def _empty(queue: "Queue[OpenVault | None]") -> None:
    while True:
        try:
            queue.get_nowait()
        except Empty:
            return
