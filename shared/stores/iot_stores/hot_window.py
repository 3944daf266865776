"""The hot window: encrypted segments of the last minutes, in Redis.

Each vault has an index of its segments by time of receipt. Each shard has a *cover* with a time
`since`. The indexes have every stored reading that the shard received since then and that is not
too old for the window. A read within the cover needs no query of Postgres.

The cover must never claim a segment that the window lacks:

- The cover holds the position of the last drain whose segments are in the window. If a writer is
  killed after its commit in Postgres and before its write to the window, the next drain begins
  after this position, and moves `since` forward. `since` never moves back, even if a slow writer
  writes to the window after the writer of a later drain.
- After a restore, Postgres may lack drains whose segments are in the window. Later drains may store
  the entries of these drains again, in other segments, so `since` moves past the lost drains. A
  later drain that stores the same entries again ends at the position that the cover already has,
  but gives the readings other ids. If the window lacks the segments of this later drain, the
  position does not show the gap. So the cover also holds the next id after its last drain.
- The window may have its own Redis, which may have been away during drains, or restored to an
  earlier state. The backlog's Redis holds the position up to which each shard is drained: a cover
  is valid only if it reaches this position. Times are always by the clock of the backlog's Redis,
  which also sets the times of receipt.
- After a change of `IOT_SHARDS`, entries of a vault may wait in the vault's earlier shard. The
  cover of the new shard says nothing about these entries. A drain of such entries records its time
  in the backlog's Redis (`DrainPositions.moved_at`), and so does a drain whose segments the window
  may lack. Reads use the window only for readings received after this time.
- Redis may restart with older data, in which erased segments are back. If the same Redis holds the
  backlog, the backlog's positions are as old as the covers, so comparing them does not show the
  restart. So a cover also holds Redis's replication id, which changes at each start and failover. A
  cover with another id is not valid.
"""

import re
import uuid
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, cast

from redis import Redis

from iot_cipher.encryption import SealedSegment
from iot_models.errors import FormatError
from iot_models.names import KeyNames
from iot_models.segment import SegmentBounds

from .backlog import Backlog
from .backlog_counters import parse_digits, parse_position
from .key_deletion import delete_key
from .ledger import Offset
from .scripts import checked, load_script, round_trip, run_all
from .store_states import is_wrong_type
from .stream_entries import stream_order

_MARGIN_MS = 1000
"""Segments that expire within this time count as gone, because a read takes some time."""
_FIRST_FETCH, _MAX_FETCH = 4, 64
"""Number of payloads in the first round trip of a read, and maximum number in a later one."""
_FETCH_BYTES = 4 * 2**20
"""Approximate size of the payloads in one round trip."""
_LATE_SECONDS = 120
"""Longest time between storing segments and adding them to the window: the timeout of a drain."""
MAX_PAYLOAD_BYTES = 2 * 2**20
"""Larger payloads are not kept, because several are fetched at a time. Reads then use Postgres."""
_SET_BEFORE_BYTES = 4096
"""Larger payloads are written with SET before the script runs. As an argument of the script, a
payload of 34 KB takes Redis 93 microseconds instead of 51, because Lua hashes every byte of an
argument. Smaller payloads cost less as arguments than with SET."""
_COVER = ("position", "since", "seconds", "replication_id")
_OVERWRITTEN = (None, None, None, b"overwritten")
"""Stands for a cover that another program has overwritten (`_is_overwritten`). Never valid."""
_REPLICATION_ID = re.compile(rb"master_replid:(\w+)")


class SegmentEvictedError(Exception):
    """The hot window has lost a segment that its index lists."""

    def __init__(self) -> None:
        super().__init__("a segment was evicted from the hot window")


@dataclass(frozen=True, slots=True)
class DrainedShard:
    """The result of a drain for one shard."""

    shard: int
    before: Offset
    """The state of the shard before the drain."""
    after: Offset
    """The state of the shard after the drain."""
    segments: Sequence[SealedSegment]
    """The segments that the drain stored."""


@dataclass(frozen=True, slots=True)
class Coverage:
    """The segments in the window with readings of a vault that were received since `begin`."""

    begin: int
    """Time of receipt in Unix milliseconds, by the clock of the backlog's Redis."""
    bounds: Sequence[SegmentBounds] | None
    """The bounds of all segments of the coverage; None if the window may lack readings received
    since `begin`."""


@dataclass(frozen=True, slots=True)
class Cover:
    """The cover of a shard, as it is stored in the hot window's Redis."""

    position: str
    """`Offset.position` after the last drain whose segments are in the window."""
    since: int
    """Start of the cover, in Unix milliseconds."""
    seconds: int
    """How long the window keeps a segment."""

    def reaches(self, position: str) -> bool:
        """Return whether the window has received the shard's drains up to a position."""
        return stream_order(self.position) >= stream_order(position)

    def holds(self, since: int, now: int) -> bool:
        """Return whether the window holds the shard's readings received since `since`.

        Only drains up to `self.position` are considered. The window may lack later drains: call
        `reaches`, too. Return False if segments with these readings have expired, or expire within
        a second. `since` and `now` are Unix milliseconds.
        """
        return since >= max(self.since, now - self.seconds * 1000 + _MARGIN_MS)

    def seconds_held(self, now: int) -> float:
        """Return for how many seconds before `now` (Unix milliseconds) the window has no gap.

        The window holds every reading that the shard received in this time, up to the entry at
        `self.position`.
        """
        return max(0.0, min(self.seconds, (now - self.since) / 1000))


@dataclass(frozen=True, slots=True)
class RecentSegments:
    """The latest segments of vaults, and the covers of shards, read before and after the segments.

    A writer adds a drain's segments of a shard and updates the shard's cover in one step. So two
    facts are true of a shard that is in `before` and in `after`:

    - `bounds` has the segments of all drains up to the position of the cover in `before`.
    - If `bounds` has a segment of a later drain, `bounds` also has the segments of all drains
      before that drain.

    Both apply only to readings that the window holds according to the cover in `after`
    (`Cover.holds`).
    """

    before: Mapping[int, Cover]
    """The covers of shards. Shards without a valid cover are left out."""
    bounds: Sequence[Sequence[SegmentBounds]]
    """The bounds of each vault's segments."""
    after: Mapping[int, Cover]


class HotWindow:
    """The segments received in the last `seconds`; with 0, no segments are kept."""

    def __init__(
        self,
        client: "Redis",
        names: KeyNames,
        backlog: Backlog,
        *,
        seconds: int,
        usable: Callable[[], bool] = lambda: True,
    ) -> None:
        """`usable` returns whether this Redis may be used. If not, no shard is covered."""
        self._usable = usable
        self._client = client
        self._names = names
        self._backlog = backlog
        self._seconds = seconds
        self._write = load_script(client, "hot_window_write.lua")

    def write(self, drains: Sequence[DrainedShard]) -> bool:
        """Add the segments of a drain to the window, and update the covers of its shards.

        Must be called after each drain, with all of its shards, also those without new segments.
        Return False, and do nothing, if no segments are kept, or if this Redis must not be used.

        - A cover that ends where the drain began (`DrainedShard.before`) is extended, unless
          `seconds` was changed, or Redis was restarted or failed over.
        - A cover that a later drain has begun is not changed.
        - Otherwise, a new cover begins, because the window may lack earlier drains: a writer was
          killed, Redis was away or emptied, or a store was restored. The new cover leaves out all
          readings that were stored before the drain.

        Raises:
            RedisError: the segments may have been added. The caller may ignore the error: the cover
                does not claim missing segments.
        """
        if not (self._seconds and self._usable()):
            return False
        # The script takes the time of this Redis if the backlog is in the same Redis.
        now = None if self._backlog.uses(self._client) else self._backlog.now()
        arguments: list[str | int | bytes] = [self._seconds, "" if now is None else now]
        for drain in drains:
            arguments += self._addition(drain)
        covers = [self._names.hot_cover(drain.shard) for drain in drains]
        # Send payloads first: the script then adds them to the index, so that reads find them.
        payloads = [command for drain in drains for command in self._large_payloads(drain)]
        run_all(self._client, self._write, [(covers, arguments)], payloads)
        return True

    def _large_payloads(self, drain: DrainedShard) -> Iterator[Sequence[str | int | bytes]]:
        """Yield a SET command for each payload that is too large for an argument of the script.

        Payloads that the window does not keep are left out: payloads larger than
        `MAX_PAYLOAD_BYTES`, and payloads of imported segments that are too old.
        """
        horizon = stream_order(drain.after.position)[0] - self._seconds * 1000
        for segment in drain.segments:
            is_large = _SET_BEFORE_BYTES < len(segment.payload) <= MAX_PAYLOAD_BYTES
            if is_large and segment.bounds.received_max >= horizon:
                key = self._names.hot_segment(segment.vault_id.bytes, segment.bounds.first_id)
                yield "SET", key, segment.payload, "EX", self._seconds

    def _addition(self, drain: DrainedShard) -> list[str | int | bytes]:
        before, after = drain.before, drain.after
        arguments: list[str | int | bytes] = [
            before.position, before.next_id, after.position, after.next_id,
            before.received_max + 1, len(drain.segments),
        ]  # fmt: skip
        for segment in drain.segments:
            vault_id, bounds = segment.vault_id.bytes, segment.bounds
            arguments += (
                self._names.hot_index(vault_id),
                self._names.hot_segment(vault_id, bounds.first_id),
                bounds.received_max,
                bounds.to_bytes(),
                segment.payload if len(segment.payload) <= _SET_BEFORE_BYTES else b"",
            )
        return arguments

    def forget(self, vault_id: uuid.UUID) -> None:
        """Delete all segments of an erased vault from the window. Raises `RedisError`.

        The covers stay as they are, because nothing reads an erased vault any more.
        """
        index = self._names.hot_index(vault_id.bytes)
        (found,) = round_trip(self._client, [("ZRANGEBYSCORE", index, "-inf", "+inf")])
        # An index of another type, or a member without bounds, was written by another program.
        members = [] if is_wrong_type(found) else checked([found])[0]
        names = []
        for member in members:
            with suppress(FormatError):
                first_id = SegmentBounds.from_bytes(member).first_id
                names.append(self._names.hot_segment(vault_id.bytes, first_id))
        for start in range(0, len(names), _MAX_FETCH):
            self._client.delete(*names[start : start + _MAX_FETCH])
        self._client.delete(index, self._names.hot_hidden(vault_id.bytes))

    def hide(self, vault_id: uuid.UUID) -> None:
        """Make reads of a vault use Postgres until its current segments have left the window.

        An erasure of readings calls this first, because its process may be killed before it calls
        `evict`. Raises `RedisError`.
        """
        if self._seconds:
            name = self._names.hot_hidden(vault_id.bytes)
            self._client.set(name, 1, ex=self._seconds + _LATE_SECONDS)

    def evict(self, vault_id: uuid.UUID, first_ids: Iterable[int]) -> None:
        """Delete segments whose readings were erased. Raises `RedisError`."""
        if not self._seconds:
            return
        with self._client.pipeline(transaction=False) as pipeline:
            for first_id in first_ids:
                delete_key(pipeline, self._names.hot_segment(vault_id.bytes, first_id))
            pipeline.execute()

    def coverage(
        self, vault_id: uuid.UUID, shard: int, seconds: int, begin: int | None = None
    ) -> Coverage:
        """Return the segments in the window with a vault's readings of the last `seconds`.

        `shard` is the vault's shard. For later pages of a read, pass the `Coverage.begin` of the
        first page as `begin`; `seconds` is then ignored.

        Raises the errors of `recent`.
        """
        # Read this before the cover: a drain in between may store segments that the window lacks.
        drained = self._backlog.drain_positions([shard])
        if begin is None:
            begin = max(0, drained.now - seconds * 1000)
        position = drained.positions.get(shard)
        if position is None or not (self._seconds and self._usable()):
            return Coverage(begin, None)
        if begin <= drained.moved_at:
            return Coverage(begin, None)
        # Read the index before the cover: if the window loses its data in between, it has no cover.
        index = self._index_command(vault_id, begin)
        own_id, (found, *covers) = self._ask([index, *self._cover_commands([shard])])
        cover = _covers([shard], covers, own_id).get(shard)
        if cover is None or not (cover.reaches(position) and cover.holds(begin, drained.now)):
            return Coverage(begin, None)
        return Coverage(begin, [SegmentBounds.from_bytes(member) for member in found])

    def covers(self, shards: Sequence[int]) -> dict[int, float]:
        """Return, for each shard, how many seconds back from now the window holds every reading.

        Shards that were never drained are left out.
        """
        drained = self._backlog.drain_positions(shards)
        if not self._usable():
            return dict.fromkeys(drained.positions, 0.0)
        covers = self._valid_covers(list(drained.positions))
        since_move = max(0.0, (drained.now - drained.moved_at) / 1000)
        return {
            shard: min(covers[shard].seconds_held(drained.now), since_move)
            if shard in covers and covers[shard].reaches(position)
            else 0.0
            for shard, position in drained.positions.items()
        }

    def recent(
        self, shards: Sequence[int], vaults: Sequence[tuple[uuid.UUID, int]]
    ) -> RecentSegments:
        """Return the latest segments of vaults, and the covers of shards. Takes one round trip.

        `vaults`: for each vault its id and a time in Unix milliseconds. Return only segments with
        readings received since this time. Raises `RedisError`, and `FormatError` for an index that
        no writer has written.
        """
        if not (self._seconds and self._usable()):
            return RecentSegments({}, [[] for _ in vaults], {})
        covers = self._cover_commands(shards)
        indexes = [self._index_command(vault_id, begin) for vault_id, begin in vaults]
        own_id, found = self._ask([*covers, *indexes, *covers])
        start, end = len(shards), len(shards) + len(vaults)
        return RecentSegments(
            _covers(shards, found[:start], own_id),
            [[SegmentBounds.from_bytes(each) for each in index] for index in found[start:end]],
            _covers(shards, found[end:], own_id),
        )

    def outdated(self, shards: Sequence[int]) -> list[int]:
        """Return the shards whose cover is not valid any more.

        A cover is not valid if another program has overwritten the cover, or if Redis has restarted
        or failed over since a writer wrote the cover: Redis then has another replication id.
        """
        if not (self._seconds and self._usable()):
            return []
        own_id, found = self._ask(self._cover_commands(shards))
        return [
            shard
            for shard, (*_, noted_id) in zip(shards, found, strict=True)
            if own_id and noted_id and noted_id != own_id
        ]

    def _valid_covers(self, shards: Sequence[int]) -> dict[int, Cover]:
        own_id, found = self._ask(self._cover_commands(shards))
        return _covers(shards, found, own_id)

    def _cover_commands(self, shards: Sequence[int]) -> list[Sequence[str]]:
        return [("HMGET", self._names.hot_cover(shard), *_COVER) for shard in shards]

    def _index_command(self, vault_id: uuid.UUID, begin: int) -> Sequence[str | int]:
        """Return the Redis command that finds a vault's segments with readings received since
        `begin` (Unix milliseconds).
        """
        return "ZRANGEBYSCORE", self._names.hot_index(vault_id.bytes), begin, "+inf"

    def _ask(self, commands: Sequence[Sequence[Any]]) -> tuple[bytes, list[Any]]:
        """Send commands in one round trip. Return Redis's replication id, and the answers.

        The id is empty if Redis refuses INFO, for example because this process has no permission.
        """
        info, *answers = round_trip(self._client, [("INFO", "replication"), *commands])
        found = _REPLICATION_ID.search(info) if isinstance(info, bytes) else None
        for at, (name, *_) in enumerate(commands):
            if name == "HMGET" and _is_overwritten(answers[at]):
                answers[at] = _OVERWRITTEN
        return found[1] if found else b"", checked(answers)

    def segments(
        self, vault_id: uuid.UUID, bounds: Sequence[SegmentBounds]
    ) -> Generator[SealedSegment, None, None]:
        """Yield the segment of each of the bounds, in order.

        Segments are fetched in growing steps: a caller that stops early has fetched little.

        Raises:
            SegmentEvictedError: the next segment was evicted or is hidden.
        """
        start, count = 0, _FIRST_FETCH
        while start < len(bounds):
            fetched = bounds[start : start + count]
            keys = [self._names.hot_segment(vault_id.bytes, each.first_id) for each in fetched]
            keys.append(self._names.hot_hidden(vault_id.bytes))
            *found, hidden = cast("list[bytes | None]", self._client.mget(keys))
            if hidden is not None:
                raise SegmentEvictedError
            average = sum(len(payload or b"") for payload in found) // len(found)
            start += count
            count = max(1, min(_MAX_FETCH, 4 * count, _FETCH_BYTES // max(1, average)))
            for each, payload in zip(fetched, found, strict=True):
                if not payload:
                    raise SegmentEvictedError
                yield SealedSegment(vault_id, each, payload)


def _is_overwritten(answer: Any) -> bool:
    """Return whether another program has overwritten a cover, or some of its fields.

    `answer` is the answer to the command that reads `_COVER`, or its error.
    """
    if not isinstance(answer, list):
        return is_wrong_type(answer)
    position, since, seconds = answer[:3]
    numbers = [parse_digits(number or b"") for number in (since, seconds)]
    return answer[:3] != [None] * 3 and None in (parse_position(position), *numbers)


def _covers(
    shards: Iterable[int], found: Iterable[list[bytes | None]], own_id: bytes
) -> dict[int, Cover]:
    """Return the valid covers of shards. `own_id`: the replication id of Redis; empty: unknown.

    A cover without an id counts as valid: earlier versions write none, and writers without
    permission for INFO do not know it.
    """
    covers = {}
    for shard, (position, since, seconds, noted_id) in zip(shards, found, strict=True):
        if own_id and noted_id and noted_id != own_id:
            continue
        if position is not None and since is not None and seconds is not None:
            covers[shard] = Cover(position.decode(), int(since), int(seconds))
    return covers
