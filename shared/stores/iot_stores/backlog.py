"""The backlog: sealed entries that are acknowledged and wait to be stored, one stream per shard.

Lua scripts change streams, counters and the job queue in one step, so a killed process leaves none
of them half changed.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, cast

from redis import Redis
from redis.exceptions import (
    ResponseError,
    TimeoutError,  # noqa: A004 - redis-py's own
)

from iot_models import tracing
from iot_models.names import DRAIN_JOB_PREFIX, KeyNames

from .backlog_append import BacklogAppender
from .backlog_counters import (
    as_shard,
    parse_digits,
    parse_next_id,
    parse_number,
    parse_position,
    parse_shard,
)
from .backlog_search import end_of_read
from .confirmation import NO_CONFIRMATION, Confirmation
from .redis_client import milliseconds
from .scripts import (
    Call,
    checked,
    evalsha,
    load_and_repeat,
    load_script,
    round_trip,
    run_all,
    run_commands,
)
from .store_states import report
from .stream_entries import Removal, ShardProgress, WaitingEntry, WaitingShard
from .wakeups import ThreadWakeup, Wakeup

MAX_ENTRIES = 4096
"""Maximum number of entries that `Backlog.read_shards` reads. Each entry blocks Redis for a
microsecond."""
_FSYNC_FACTOR = 4
"""If each read of the backlog must wait until Redis has synced the entries to disk, a read may
return this many times `MAX_ENTRIES`: Redis may sync only once a second."""
_UNKNOWN_SIZES = 64
"""Number of entries to read from a shard if a counter or the positions of entries are damaged."""
_NAME_BYTES = 64
"""Number of leading bytes that identify a sealed entry: they contain its session and number."""

_log = logging.getLogger(__name__)


class UnconfirmedError(TimeoutError):
    """Replicas or disks did not confirm in time the entries that a drain has read.

    These entries are not drained (see `Backlog.read_shards`).
    """


@dataclass(frozen=True, slots=True)
class DrainPositions:
    """The positions up to which shards are drained, and when they were read."""

    now: int
    """When the positions were read: Unix milliseconds by the clock of the backlog's Redis."""
    positions: dict[int, str]
    """`Offset.position` of each shard whose position is known."""
    moved_at: int
    """When a drain last removed entries with `Removal.is_uncovered`, in Unix milliseconds; 0:
    never."""


@dataclass(frozen=True, slots=True)
class DrainedShards:
    """How far each shard is drained, which shards are empty, and when this was read."""

    now: int
    """When the other fields were read: Unix milliseconds by the clock of the backlog's Redis."""
    positions: Mapping[int, str]
    """For each shard, `Offset.position` after the last drain that removed entries."""
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
    """The streams of all shards, and the Redis hash of their counters: bytes, positions, ids.

    API processes append entries (`BacklogAppender`). Writers read and remove entries.
    """

    def __init__(
        self,
        client: "Redis",
        names: KeyNames,
        *,
        shards: int,
        max_bytes: int,
        confirmation: Confirmation = NO_CONFIRMATION,
        wakeup: Callable[[], Wakeup] = ThreadWakeup,
    ) -> None:
        super().__init__(
            client,
            names,
            max_bytes=max_bytes,
            confirmation=confirmation,
            wakeup=wakeup,
        )
        self._shards = shards
        self._remove = load_script(client, "backlog_remove.lua")
        self._enqueue_once = load_script(client, "backlog_enqueue_once.lua")
        self._take = load_script(client, "backlog_take.lua")
        self._confirm = load_script(client, "backlog_confirm.lua")
        self._max_entries = MAX_ENTRIES * (_FSYNC_FACTOR if confirmation.fsync else 1)

    def try_remove(self) -> None:
        """Raise `RedisError` if Redis refuses XTRIM, which `remove` needs. Nothing is trimmed."""
        self._client.xtrim(self._names.unused_stream, minid="0", approximate=False)

    def ends(self) -> dict[int, int]:
        """Return the number of bytes ever added to the stream of each shard, for `all_removed`."""
        shards = self.shards()
        found = self._client.hmget(
            self._names.backlog_counters, [f"in:{shard}" for shard in shards]
        )
        added = cast("list[bytes | None]", found)
        return {shard: parse_number(total) for shard, total in zip(shards, added, strict=True)}

    def all_removed(self, ends: Mapping[int, int]) -> bool:
        """Return whether all entries up to `ends` have left the streams.

        `ends` marks an entry in each shard, by the number of bytes that were ever added to the
        shard up to and including this entry (`Backlog.ends`, `AppendResult.ends`). An entry that
        has left its stream is stored, a dead letter, or held.
        """
        fields = [f"out:{shard}" for shard in ends]
        found = self._client.hmget(self._names.backlog_counters, fields)
        removed = cast("list[bytes | None]", found)
        return all(
            parse_number(out) >= end for out, end in zip(removed, ends.values(), strict=True)
        )

    def read_shards(self, shards: Sequence[int], *, max_bytes: int) -> list[WaitingShard]:
        """Return the oldest entries of shards, one shard after the other, up to about `max_bytes`.

        Once the limit is reached, the remaining shards are left out. Every earlier shard with
        waiting entries is returned with at least one entry.

        If the counters are sound, at most an eighth of `max_bytes` and a few entries are fetched
        in vain. The read takes two round trips, and up to about twenty more if a shard exceeds the
        limit.

        With `IOT_REDIS_WAIT_REPLICAS` or `IOT_REDIS_WAIT_FSYNC`, wait until the replicas or disks
        have the entries. Without the wait, a failover could lose a stored entry together with its
        `Idempotency-Key`, and a repeated request would be stored as new readings. If Redis refuses
        WAIT or WAITAOF, for example without permission, do not wait.

        Raises:
            UnconfirmedError: replicas or disks did not confirm the entries in time.
            RedisError: Redis can't serve.
        """
        progress = self.progress(shards)
        ranges: dict[int, tuple[str, int]] = {}
        bytes_left, entries_left = max_bytes, self._max_entries
        for shard, known in progress.items():
            if bytes_left <= 0 or entries_left <= 0:
                break
            # Entries that arrive now, before the read, are read too.
            end, count = "+", min(known.entries + known.entries // 8 + 8, entries_left)
            if known.entries and not 0 < known.bytes <= bytes_left:
                # The shard has too many bytes, or a counter is damaged.
                end = end_of_read(self._client, self._names.stream(shard), bytes_left)
                if end == "+":
                    count = min(count, _UNKNOWN_SIZES)
            ranges[shard] = end, count
            if end != "+":
                break
            bytes_left -= known.bytes
            entries_left -= count
        waiting, bytes_left = [], max_bytes
        for shard, entries in self._read_streams(ranges).items():
            if bytes_left <= 0:
                break
            sizes = accumulate(len(entry.sealed) for entry in entries)
            taken = next((n for n, size in enumerate(sizes, 1) if size >= bytes_left), len(entries))
            waiting.append(WaitingShard(shard, entries[:taken], progress[shard]))
            bytes_left -= sum(len(entry.sealed) for entry in entries[:taken])
        return waiting

    def _read_streams(self, ranges: Mapping[int, tuple[str, int]]) -> dict[int, list[WaitingEntry]]:
        """Return the oldest entries of each shard.

        `ranges`: for each shard, the last id to read and the maximum number of entries.
        """
        commands: list[Sequence[str | int]] = [("TIME",)]
        for shard, (end, count) in ranges.items():
            commands.append(("XRANGE", self._names.stream(shard), "-", end, "COUNT", count))
        if self._confirmation.command:
            (seconds, micros), *streams = self._run_confirmed(commands)
        else:
            (seconds, micros), *streams = run_commands(self._client, commands)
        now = milliseconds((int(seconds), int(micros)))
        return {
            shard: [_waiting_entry(entry_id, fields, now) for entry_id, fields in stream]
            for shard, stream in zip(ranges, streams, strict=True)
        }

    def _run_confirmed(self, commands: Sequence[Sequence[str | int]]) -> list[Any]:
        """Run commands that read entries, and wait until replicas and disks have these entries.

        Return the answers. If Redis refuses WAIT or WAITAOF, do not wait. Raises like
        `read_shards`.
        """
        # All over one connection: after a failover, another server would confirm other data.
        write: Call = [self._names.backlog_counters], []
        wait = self._confirmation.command
        *answers, written, waited = round_trip(
            self._client, [*commands, evalsha(self._confirm, write), wait]
        )
        written = [written]
        if again := load_and_repeat(
            self._client, self._confirm, [write], written, before=commands, after=[wait]
        ):
            *answers, waited = again
        checked([*answers, *written])
        if isinstance(waited, ResponseError):
            # For example, the writer's user has no right to use WAITAOF.
            report(_log, "entries are stored before replicas and disks confirm them", waited)
        elif any(answers[1:]) and (missing := self._confirmation.missing(waited, self._client)):
            raise UnconfirmedError(missing)
        return answers

    def holds(self, shard: int, entry_id: str) -> bool:
        """Return whether an entry is in the stream of a shard: no drain has removed it yet."""
        return bool(self._client.xrange(self._names.stream(shard), min=entry_id, max=entry_id))

    def remove(self, removals: Sequence[Removal]) -> list[bool]:
        """Remove drained entries from their streams. Return whether each stream has entries left.

        The entries in `Removal.held` move to `HeldEntries` in the same step.

        Nothing is removed from a stream that lacks the entry `Removal.last`: another drain has
        removed this entry, or a failover has lost it. After a failover, the stream may have new
        entries with lower ids, which no drain has read. Trimming the stream up to the id of
        `Removal.last` would delete these new entries.
        """
        keys = [self._names.backlog_counters, self._names.held_vaults]
        arguments: list[str | int | bytes] = []
        for removal in removals:
            last = removal.last
            keys.append(self._names.stream(removal.shard))
            arguments += (
                last.entry_id, last.sealed[:_NAME_BYTES], removal.shard, last.bytes_so_far,
                removal.position, int(removal.resets_ids), removal.next_id,
                int(removal.is_uncovered), len(removal.held),
            )  # fmt: skip
            for held in removal.held:
                arguments += (
                    held.entry.entry_id, held.vault_id.hex(),
                    self._names.held_entries(held.vault_id), held.entry.received,
                )  # fmt: skip
        (left,) = run_all(self._client, self._remove, [(keys, arguments)])
        return list(map(bool, cast("list[int]", left)))

    def progress(self, shards: Sequence[int]) -> dict[int, ShardProgress]:
        """Return, for each shard, how far it is drained and how much waits."""
        fields = [f"{name}:{shard}" for shard in shards for name in ("at", "next", "in", "out")]
        commands: list[Sequence[str]] = [("HMGET", self._names.backlog_counters, *fields)]
        commands += [("XLEN", self._names.stream(shard)) for shard in shards]
        counters, *lengths = run_commands(self._client, commands) if shards else ([],)
        known = iter(cast("list[bytes | None]", counters))
        return {
            shard: ShardProgress(
                parse_position(at),
                parse_next_id(next_id),
                max(0, parse_number(added) - parse_number(removed)),
                length,
            )
            for shard, length, at, next_id, added, removed in zip(
                shards, lengths, known, known, known, known, strict=True
            )
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

        The caller must drain these shards. If the caller is killed, the sweep queues the drains
        again.
        """
        call = [self._names.job_list], [DRAIN_JOB_PREFIX]
        (taken,) = run_all(self._client, self._take, [call])
        # Another program may have queued a job whose id only looks like a drain.
        shards = map(as_shard, cast("list[bytes]", taken))
        return [shard for shard in shards if shard is not None]

    def drain_positions(self, shards: Sequence[int]) -> DrainPositions:
        """Return the positions up to which shards are drained, and Redis's time."""
        with self._client.pipeline(transaction=False) as pipeline:
            pipeline.time()
            fields = [*(f"at:{shard}" for shard in shards), "moved_at"]
            pipeline.hmget(self._names.backlog_counters, fields)
            time, (*found, moved_at) = pipeline.execute()
        positions = dict(zip(shards, map(parse_position, found), strict=True))
        known = {shard: at for shard, at in positions.items() if at is not None}
        return DrainPositions(milliseconds(time), known, parse_number(moved_at))

    def drained(self) -> DrainedShards:
        """Return how far each shard is drained, and which shards are empty, in one round trip."""
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
            next_ids[shard] = parse_next_id(counters.get(b"next:%d" % shard))
            if counters.get(b"out:%d" % shard, b"0") == added:
                empty.add(shard)
        return DrainedShards(milliseconds(time), positions, next_ids, frozenset(empty))

    def uses(self, client: "Redis") -> bool:
        """Return whether `client` is the Redis client that the backlog uses."""
        return client is self._client

    def now(self) -> int:
        """Return the time of the backlog's Redis, in Unix milliseconds."""
        return milliseconds(self._client.time())

    def enqueue_once(self, jobs: Sequence[str]) -> int:
        """Queue the jobs that are not queued already. Return the number of jobs added."""
        return cast("int", self._enqueue_once(keys=[self._names.job_list], args=list(jobs)))

    def shards(self) -> list[int]:
        """Return all shards, including those in use before the number of shards was changed."""
        counted = cast("list[bytes]", self._client.hkeys(self._names.backlog_counters))
        used = {shard for shard in map(parse_shard, counted) if shard is not None}
        return sorted(used.union(range(self._shards)))

    def oldest_ages(self) -> dict[int, float]:
        """Return the age of the oldest entry in seconds, for each shard that has entries.

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


def _waiting_entry(entry_id: bytes, fields: Sequence[bytes], now: int) -> WaitingEntry:
    if len(fields) == 4 and fields[0] == b"e" and fields[2] == b"t":
        sealed, total, received, traceparent = fields[1], fields[3], b"", b""
    else:
        # A released or replayed entry has the field `r`. An entry of a traced request has `p`. An
        # entry without `e` or `t` was planted in Redis, and becomes a dead letter.
        known = dict(zip(fields[::2], fields[1::2], strict=True))
        sealed, total, received, traceparent = (
            known.get(name, b"") for name in (b"e", b"t", b"r", b"p")
        )
    return WaitingEntry(
        entry_id,
        sealed,
        parse_digits(total) or 0,
        now,
        parse_digits(received),
        traceparent[: tracing.TRACEPARENT_BYTES],
    )
