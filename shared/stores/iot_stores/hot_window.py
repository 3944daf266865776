"""The hot window: the segments of the last minutes in Redis, still encrypted.

Per vault there is an index by time of receipt, and per shard a statement of what is covered:
every stored reading of the shard that was received at or after `since`, and within the seconds
that are kept, is in the index. The statement also names the position in the stream up to which it
holds, so that a writer that died between Postgres and here is found out by the next one, which
then moves `since` forward. It never moves back: a writer may come late, after others. When Postgres
was restored and lacks drains that the window has, `since` moves past all of them: their entries may
be stored again, as other segments.

It may be another Redis than that of the backlog, may be away while the other is not, and come
back as it was some time ago. So a statement counts only if it reaches the position to which the
backlog says that the shard is drained; and what the time is, the backlog's Redis says, which
stamps readings.
"""

import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import cast

from redis import Redis

from iot_cipher.sealed_segment import SealedSegment
from iot_models.names import KeyNames
from iot_models.segment import SegmentBounds

from .backlog import Backlog
from .ledger import Offset
from .scripts import Call, load_script, run_all
from .stream_entries import stream_order

_MARGIN_MS = 1000
_FIRST_FETCH, _MOST_FETCH = 4, 64
_FETCH_BYTES = 4 * 2**20
MAX_PAYLOAD_BYTES = 2 * 2**20
"""A larger payload is not kept: several are fetched at a time. Reads get it from Postgres."""


@dataclass(frozen=True, slots=True)
class DrainedShard:
    """What a drain did to a shard."""

    shard: int
    before: Offset
    position: str
    """Of the stream, up to which it is drained now."""
    segments: Sequence[SealedSegment]
    """What was stored between the two."""


@dataclass(frozen=True, slots=True)
class Coverage:
    """Whether the window holds the last seconds of a shard."""

    begin: int
    """Of those seconds, in Unix milliseconds of the clock that stamps readings."""
    complete: bool
    """Whether the window holds all that was received since."""


class HotWindow:
    """The segments received in the last `seconds`; 0 seconds keeps none."""

    def __init__(
        self,
        client: "Redis",
        names: KeyNames,
        backlog: Backlog,
        *,
        seconds: int,
        usable: Callable[[], bool] = lambda: True,
    ) -> None:
        """`usable`: whether Redis keeps what it holds, and is ours; else nothing is covered."""
        self._usable = usable
        self._client = client
        self._names = names
        self._backlog = backlog
        self._seconds = seconds
        self._write = load_script(client, "hot_window_write.lua")

    def write(self, drains: Sequence[DrainedShard]) -> None:
        """Add what a drain stored.

        To be called after every drain, with every shard of it, also one of which nothing was
        stored. When the window of a shard does not end at `before` (a writer died, Redis was away
        or emptied, it was kept for another time), it covers only what comes after it.

        Raises:
            RedisError: it can't be told whether it was done. It may be left at that: what is
                missing is not claimed to be there.
        """
        if not (self._seconds and self._usable()):
            return
        now = self._backlog.now()
        run_all(self._client, self._write, [self._addition(drain, now) for drain in drains])

    def _addition(self, drain: DrainedShard, now: int) -> Call:
        before = drain.before
        arguments: list[str | int | bytes] = [
            before.position, drain.position, before.received_max + 1, self._seconds, now,
        ]  # fmt: skip
        for each in drain.segments:
            vault_id, bounds = each.vault_id.bytes, each.bounds
            arguments += (
                self._names.hot_index(vault_id),
                self._names.hot_segment(vault_id, bounds.first_id),
                bounds.received_max,
                bounds.to_bytes(),
                each.payload if len(each.payload) <= MAX_PAYLOAD_BYTES else b"",
            )
        return [self._names.hot_cover(drain.shard)], arguments

    def coverage(self, shard: int, seconds: int, begin: int | None = None) -> Coverage:
        """Whether the window holds all of the last `seconds`, or all since a `begin` that was given
        before.
        """
        # Before the cover: a drain in between may have stored segments that the window lacks.
        drained = self._backlog.drain_position(shard)
        begin = begin or max(1, drained.now - seconds * 1000)
        if not self._usable():
            return Coverage(begin, complete=False)
        found = self._client.hmget(self._names.hot_cover(shard), ["position", "since", "seconds"])
        position, since, kept = cast("list[bytes | None]", found)
        if drained.position is None or position is None or since is None or kept is None:
            return Coverage(begin, complete=False)
        if stream_order(position.decode()) < stream_order(drained.position) or begin < int(since):
            return Coverage(begin, complete=False)
        return Coverage(begin, begin >= drained.now - int(kept) * 1000 + _MARGIN_MS)

    def bounds(self, vault_id: uuid.UUID, begin: int) -> list[SegmentBounds]:
        """Bounds of a vault's segments that hold readings received at or after `begin`."""
        found = self._client.zrangebyscore(self._names.hot_index(vault_id.bytes), begin, "+inf")
        return [SegmentBounds.from_bytes(each) for each in cast("list[bytes]", found)]

    def payloads(
        self, vault_id: uuid.UUID, bounds: Sequence[SegmentBounds]
    ) -> Iterable[bytes | None]:
        """The segments' payloads in the order asked for, fetched as one goes; None for evicted."""
        start, count = 0, _FIRST_FETCH
        while start < len(bounds):
            keys = [
                self._names.hot_segment(vault_id.bytes, each.first_id)
                for each in bounds[start : start + count]
            ]
            found = cast("list[bytes | None]", self._client.mget(keys))
            average = sum(len(each or b"") for each in found) // len(found)
            start += count
            count = max(1, min(_MOST_FETCH, 4 * count, _FETCH_BYTES // max(1, average)))
            yield from found
