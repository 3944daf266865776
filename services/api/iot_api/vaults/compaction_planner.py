"""Compaction, the API's part: which small segments of an opened vault a writer is to merge.

Only a process that has the vault open can hand out the keys of its segments, so the orders are made
here.
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

from iot_cipher.aead import SALT_BYTES
from iot_cipher.keyring import Keyring
from iot_cipher.sealed_order import seal_order
from iot_cipher.vault import OpenVault
from iot_models.compaction_order import CompactionOrder, Target
from iot_models.errors import DecryptionError
from iot_stores.compaction_orders import CompactionOrders
from iot_stores.months import DAY_MS
from iot_stores.postgres import Pool
from iot_stores.small_segments import Name, SmallSegment, find_small

from .compaction_sources import VerifiedSource, verify_sources

FEWEST = 64
"""Of a day that goes on, so many small segments are merged at least."""
MOST_SEGMENTS, MOST_READINGS, MOST_BYTES = 1024, 8192, 4 * 2**20
"""Of one order: a writer is busy with it for a tenth of a second."""
MOST_FOUND = 2048
"""Small segments looked at in one go."""
MARGIN_MS = 60_000
"""Segments are left alone until the hot window has dropped them, and a little longer: what reads of
the last minutes are after stays where it is."""
MOST_VAULTS = 128
"""Vaults that wait to be looked at."""
_RECENT_MS = 2 * DAY_MS
_CLOSE_SECONDS = 2.0

_log = logging.getLogger(__name__)


def plan(small: Sequence[SmallSegment], before: int) -> Iterator[list[SmallSegment]]:
    """Which of a vault's small segments are to be merged with one another.

    All of an order were received on one day of UTC, so that retention is late by a day at most.
    While the day goes on, a segment is merged only along with as many readings in smaller ones:
    each time it is written anew it is at least twice as large. Once the day is over, what is left
    of it is merged. `before` is up to when all is known, in Unix milliseconds.
    """
    days: dict[int, list[SmallSegment]] = defaultdict(list)
    for each in small:
        days[each.received_min // DAY_MS].append(each)
    for day, segments in days.items():
        over = (day + 1) * DAY_MS <= before
        chosen = segments if over else _smallest(segments)
        for order in _portions(chosen):
            if len(order) > 1:
                yield order


def _smallest(segments: Sequence[SmallSegment]) -> list[SmallSegment]:
    by_count = sorted(segments, key=lambda each: each.count)
    readings, enough = 0, 0
    for number, each in enumerate(by_count, 1):
        readings += each.count
        if readings >= 2 * each.count:
            enough = number
    if enough < FEWEST:
        return []
    return sorted(by_count[:enough], key=lambda each: each.received_min)


def _portions(segments: Sequence[SmallSegment]) -> Iterator[list[SmallSegment]]:
    portion: list[SmallSegment] = []
    readings = size = 0
    for each in segments:
        readings += each.count
        size += each.size
        if len(portion) == MOST_SEGMENTS or readings > MOST_READINGS or size > MOST_BYTES:
            yield portion
            portion, readings, size = [], each.count, each.size
        portion.append(each)
    yield portion


class CompactionPlanner:
    """Makes the orders of vaults that were opened, one after the other, beside the requests.

    Whatever fails is left: the same is found again when the vault is opened next.
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
        """`after_seconds`: for so long from now no vault is looked at that is offered."""
        self._pool = pool
        self._orders = orders
        self._keyring = keyring
        self._from = time.monotonic() + after_seconds
        self._dropped_ms = hot_window_seconds * 1000 + MARGIN_MS
        self._vaults: Queue[OpenVault | None] = Queue(MOST_VAULTS)
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def offer(self, vault: OpenVault) -> None:
        """Look at a vault when there is time for it. Costs nothing, and never fails."""
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
        """End the thread, also with vaults left."""
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
                _log.info("small segments are not looked for now: %s", error)

    def look(self, vault: OpenVault) -> int:
        """Make the orders of a vault, unless it was looked at lately; how many were made.

        Raises:
            RedisError, psycopg.Error: a part is away.
        """
        name = vault.vault_id.bytes
        if not self._orders.look(name):
            return 0
        before = self._orders.now() - self._dropped_ms
        recent = before - _RECENT_MS
        back = self._orders.look_back(name)
        with self._pool.connection() as connection:
            small = find_small(
                connection,
                vault.vault_id,
                since=0 if back else recent,
                before=before,
                limit=MOST_FOUND,
            )
        planned, verified = self._verified_plan(vault, small, before)
        if back and len(small) == MOST_FOUND:
            self._orders.look_back_soon(name)
        elif back and all(segments[0].received_min >= recent for segments in planned):
            self._orders.settled(name)
        for made, segments in enumerate(planned):
            sources = [verified[each.name] for each in segments]
            if not self._orders.push(self._order(vault, sources)):
                return made
        return len(planned)

    def _verified_plan(
        self, vault: OpenVault, small: Sequence[SmallSegment], before: int
    ) -> tuple[list[list[SmallSegment]], dict[Name, VerifiedSource]]:
        """A plan of segments that were all opened. Only what is planned is fetched; what must not
        be merged is left out, and the rest planned anew.
        """
        verified: dict[Name, VerifiedSource] = {}
        while True:
            planned = list(plan(small, before))
            wanted = [each for order in planned for each in order if each.name not in verified]
            verified |= verify_sources(self._pool, vault, wanted)
            refused = {each.name for each in wanted} - verified.keys()
            if not refused:
                return planned, verified
            small = [each for each in small if each.name not in refused]

    def _order(self, vault: OpenVault, sources: Sequence[VerifiedSource]) -> bytes:
        # An order's readings of one day fit in one segment, so each day needs one key.
        days = set(chain.from_iterable(each.days for each in sources))
        salts = [os.urandom(SALT_BYTES) for _ in days]
        order = CompactionOrder(
            vault.vault_id.bytes,
            tuple(Target(salt, vault.chunk_key(salt)) for salt in salts),
            tuple(each.source for each in sources),
        )
        return seal_order(self._keyring(), order.encode())


def _empty(queue: "Queue[OpenVault | None]") -> None:
    while True:
        try:
            queue.get_nowait()
        except Empty:
            return
