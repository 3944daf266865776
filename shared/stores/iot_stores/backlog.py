"""The backlog: sealed entries that are acknowledged and wait to be stored, one stream a shard.

The Lua scripts change streams, counters and the job queue in one step: Redis runs a script without
interruption, so a process that is killed leaves none of them half changed.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from redis import Redis

from iot_models.names import DRAIN_JOB_PREFIX, MAX_SHARDS, KeyNames

from .backlog_append import BacklogAppender
from .backlog_counters import parse_number, parse_position, parse_shard
from .redis_client import milliseconds
from .scripts import load_script, run_all
from .stream_entries import Removal, ShardProgress, WaitingEntry, next_entry_id

_PAGE = 128
"""Entries fetched in one round trip."""

_Page = list[tuple[bytes, dict[bytes, bytes]]]


@dataclass(frozen=True, slots=True)
class DrainPosition:
    """The position up to which a shard is drained, and when it was read."""

    now: int
    """Unix milliseconds, by the clock that stamps readings."""
    position: str | None
    """`Offset.position` of the last drain that removed entries; None if it is unknown."""


@dataclass(frozen=True, slots=True)
class DrainPositions:
    """The positions up to which shards are drained, and when they were read."""

    now: int
    """Unix milliseconds, by the clock that stamps readings."""
    positions: dict[int, str]
    """`Offset.position` by shard, without the shards whose position is unknown."""


@dataclass(frozen=True, slots=True)
class DrainedShards:
    """How far all shards are drained, and when that was read."""

    now: int
    """Unix milliseconds, by the clock that stamps readings."""
    positions: Mapping[int, str]
    """`Offset.position` of the last drain that removed entries, by shard."""
    next_ids: Mapping[int, int]
    """The next id of each shard. All readings with lower ids are stored."""
    empty: frozenset[int]
    """Shards in which no entry waited."""


@dataclass(frozen=True, slots=True)
class BacklogState:
    """Size and age of the backlog."""

    bytes: int
    """Sealed bytes of waiting and held entries."""
    entries: dict[int, int]
    """Number of waiting entries by shard."""
    ages: dict[int, float]
    """Age of the oldest waiting entry by shard, in seconds; 0 for a shard without entries."""
    dead_letters: int
    held: int
    """Number of held entries (`HeldEntries`)."""

    @property
    def oldest_seconds(self) -> float:
        """Age of the oldest waiting entry, in seconds; 0 if no entry waits."""
        return max(0.0, *self.ages.values())


class Backlog(BacklogAppender):
    """The streams of all shards, and their counters. Writers also read and remove entries."""

    def __init__(
        self,
        client: "Redis",
        names: KeyNames,
        *,
        shards: int,
        max_bytes: int,
        wait_replicas: int = 0,
        wait_fsync: bool = False,
    ) -> None:
        super().__init__(
            client, names, max_bytes=max_bytes, wait_replicas=wait_replicas, wait_fsync=wait_fsync
        )
        self._shards = shards
        self._remove = load_script(client, "backlog_remove.lua")
        self._enqueue_once = load_script(client, "backlog_enqueue_once.lua")
        self._take = load_script(client, "backlog_take.lua")

    def try_remove(self) -> None:
        """Send the commands of `remove` without effect. Raises `RedisError` if it would fail."""
        self._client.xtrim(self._names.unused_stream, minid="0", approximate=False)

    def ends(self) -> dict[int, int]:
        """Return where the entries of all shards end now, as `AppendResult.ends`."""
        shards = self.shards()
        found = self._client.hmget(
            self._names.backlog_counters, [f"in:{shard}" for shard in shards]
        )
        added = cast("list[bytes | None]", found)
        return {shard: parse_number(total) for shard, total in zip(shards, added, strict=True)}

    def all_removed(self, ends: Mapping[int, int]) -> bool:
        """Return whether all entries up to these ends (`AppendResult.ends`) left the streams.

        Such entries are in Postgres and in the hot window, or they are dead letters or held.
        """
        fields = [f"out:{shard}" for shard in ends]
        found = self._client.hmget(self._names.backlog_counters, fields)
        removed = cast("list[bytes | None]", found)
        return all(
            parse_number(out) >= end for out, end in zip(removed, ends.values(), strict=True)
        )

    def read(self, shard: int, *, max_bytes: int) -> list[WaitingEntry]:
        """Return the oldest entries of a shard, in order, up to about `max_bytes` sealed bytes.

        At least one entry is returned if one waits.
        """
        waiting: list[WaitingEntry] = []
        size = 0
        while True:
            after = b"(" + waiting[-1].entry_id if waiting else b"-"
            now, page = self._read_page(shard, after)
            for entry_id, fields in page:
                # An entry without these fields was planted in Redis. It becomes a dead letter.
                sealed, total = fields.get(b"e", b""), fields.get(b"t", b"")
                received = fields.get(b"r", b"")
                waiting.append(
                    WaitingEntry(
                        entry_id,
                        sealed,
                        int(total) if total.isdigit() else 0,
                        now,
                        int(received) if received.isdigit() else None,
                    )
                )
                size += len(sealed)
                if size >= max_bytes:
                    return waiting
            if len(page) < _PAGE:
                return waiting

    def _read_page(self, shard: int, after: bytes) -> tuple[int, _Page]:
        """Return Redis's time, and the entries from `after` on."""
        with self._client.pipeline(transaction=False) as pipeline:
            pipeline.time()
            pipeline.xrange(self._names.stream(shard), after, b"+", count=_PAGE)
            time, page = pipeline.execute()
        return milliseconds(time), page

    def remove(self, removals: Sequence[Removal]) -> list[int]:
        """Remove stored and held entries from their streams. Return how many entries are left.

        Held entries move to `HeldEntries` in the same step. Idempotent: the counters are set to
        totals, so nothing is subtracted twice.
        """
        calls = []
        for removal in removals:
            stream = self._names.stream(removal.shard)
            keys = [stream, self._names.backlog_counters, self._names.held_vaults]
            last = removal.last
            arguments: list[str | int | bytes] = [
                next_entry_id(last.entry_id), removal.shard, last.bytes_so_far, removal.position,
                int(removal.resets_ids), removal.next_id,
            ]  # fmt: skip
            for held in removal.held:
                arguments += (
                    held.entry.entry_id, held.vault_id.hex(),
                    self._names.held_entries(held.vault_id), held.entry.received,
                )  # fmt: skip
            calls.append((keys, arguments))
        return run_all(self._client, self._remove, calls)

    def progress(self, shards: Sequence[int]) -> dict[int, ShardProgress]:
        """Return the positions and next ids of shards, as Redis has them."""
        fields = [f"{field}:{shard}" for shard in shards for field in ("at", "next")]
        found = self._client.hmget(self._names.backlog_counters, fields)
        known = iter(cast("list[bytes | None]", found))
        return {
            shard: ShardProgress(parse_position(at), parse_number(next_id))
            for shard, at, next_id in zip(shards, known, known, strict=True)
        }

    def has_held_entries(self) -> bool:
        """Return whether there are held entries (`HeldEntries`)."""
        held = cast("bytes | None", self._client.hget(self._names.backlog_counters, "held"))
        return parse_number(held) > 0

    def request_new_sessions(self) -> None:
        """Make each API process start a new session at its next request."""
        self._client.hincrby(self._names.backlog_counters, "session_renewals", 1)

    def take_drains(self) -> list[int]:
        """Take all drains off the job queue, and return their shards in the order of the queue.

        The caller must drain these shards. If the caller is killed, the sweep queues them again.
        """
        taken = self._take(keys=[self._names.job_list], args=[DRAIN_JOB_PREFIX])
        shards = cast("list[bytes]", taken)
        # Another program may have queued a job whose id only looks like a drain.
        return [int(shard) for shard in shards if shard.isdigit() and int(shard) < MAX_SHARDS]

    def drain_position(self, shard: int) -> DrainPosition:
        """Return the position up to which a shard is drained, and Redis's time."""
        with self._client.pipeline(transaction=False) as pipeline:
            pipeline.time()
            pipeline.hget(self._names.backlog_counters, f"at:{shard}")
            time, position = pipeline.execute()
        return DrainPosition(milliseconds(time), parse_position(position))

    def drain_positions(self, shards: Sequence[int]) -> DrainPositions:
        """Return the positions up to which shards are drained, and Redis's time."""
        with self._client.pipeline(transaction=False) as pipeline:
            pipeline.time()
            pipeline.hmget(self._names.backlog_counters, [f"at:{shard}" for shard in shards])
            time, found = pipeline.execute()
        positions = dict(zip(shards, map(parse_position, found), strict=True))
        known = {shard: at for shard, at in positions.items() if at is not None}
        return DrainPositions(milliseconds(time), known)

    def drained(self) -> DrainedShards:
        """Return how far all shards are drained. Takes one round trip."""
        with self._client.pipeline(transaction=False) as pipeline:
            pipeline.time()
            pipeline.hgetall(self._names.backlog_counters)
            time, found = pipeline.execute()
        counters = cast("dict[bytes, bytes]", found)
        positions, next_ids, empty = {}, {}, set()
        for field, added in counters.items():
            shard = parse_shard(field)
            if shard is None:
                continue
            position = parse_position(counters.get(b"at:%d" % shard))
            if position is not None:
                positions[shard] = position
            next_ids[shard] = parse_number(counters.get(b"next:%d" % shard))
            if counters.get(b"out:%d" % shard, b"0") == added:
                empty.add(shard)
        return DrainedShards(milliseconds(time), positions, next_ids, frozenset(empty))

    def now(self) -> int:
        """Return Unix milliseconds by the clock that stamps readings."""
        return milliseconds(self._client.time())

    def enqueue_once(self, jobs: Sequence[str]) -> int:
        """Queue the jobs that are not queued already. Return how many were queued."""
        return cast("int", self._enqueue_once(keys=[self._names.job_list], args=list(jobs)))

    def shards(self) -> list[int]:
        """Return all shards, also those in use before the number of shards was changed."""
        counted = cast("list[bytes]", self._client.hkeys(self._names.backlog_counters))
        used = {shard for shard in map(parse_shard, counted) if shard is not None}
        return sorted(used.union(range(self._shards)))

    def oldest_ages(self) -> dict[int, float]:
        """Return the age of the oldest entry, in seconds, of each shard that has entries.

        An age is negative if Redis's clock was set back after the entry was added.
        """
        return {shard: age for shard, _, age in self._lengths() if age is not None}

    def state(self) -> BacklogState:
        """Return size and age of the backlog, for metrics."""
        found = self._client.hmget(self._names.backlog_counters, ["bytes", "held"])
        size, held = map(parse_number, cast("list[bytes | None]", found))
        lengths = list(self._lengths())
        return BacklogState(
            bytes=size,
            entries={shard: length for shard, length, _ in lengths},
            ages={shard: max(0.0, age or 0.0) for shard, _, age in lengths},
            dead_letters=self._client.xlen(self._names.dead_letters),
            held=held,
        )

    def _lengths(self) -> Iterator[tuple[int, int, float | None]]:
        shards = self.shards()
        with self._client.pipeline(transaction=False) as pipeline:
            pipeline.time()
            for shard in shards:
                pipeline.xlen(self._names.stream(shard))
                pipeline.xrange(self._names.stream(shard), count=1)
            time, *answers = pipeline.execute()
        now = milliseconds(time)
        for shard, length, first in zip(shards, answers[::2], answers[1::2], strict=True):
            received = int(first[0][0].partition(b"-")[0]) if first else None
            yield shard, length, None if received is None else (now - received) / 1000
