"""The backlog: sealed entries that are acknowledged and wait to be stored, one stream a shard.

The Lua scripts change streams, counters and the job queue in one step: Redis runs a script without
interruption, so a process that is killed leaves none of them half changed.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple, cast

from redis import Redis
from redis.exceptions import ResponseError

from iot_models.errors import TooLargeError, UnavailableError
from iot_models.names import DRAIN_JOB_PREFIX, MAX_SHARDS, KeyNames, drain_job

from .append_outcomes import AppendOutcome, refuse
from .backlog_counters import parse_number, parse_position, parse_shard
from .group_commit import GroupCommit
from .redis_client import milliseconds
from .redis_connections import renew_connections
from .scripts import load_script, run_all
from .store_states import report
from .stream_entries import Removal, ShardProgress, WaitingEntry, next_entry_id

WAIT_MILLISECONDS = 2000
"""Timeout of WAIT and WAITAOF. With `appendfsync everysec`, an fsync comes every second."""
_PAGE = 128
"""Entries fetched in one round trip."""
_log = logging.getLogger(__name__)

_Page = list[tuple[bytes, dict[bytes, bytes]]]


@dataclass(frozen=True, slots=True)
class DrainPosition:
    """The position up to which a shard is drained, and when it was read."""

    now: int
    """Unix milliseconds, by the clock that stamps readings."""
    position: str | None
    """`Offset.position` of the last drain that removed entries; None if it is unknown."""


@dataclass(frozen=True, slots=True)
class BacklogState:
    """Size and age of the backlog."""

    bytes: int
    """Sealed bytes of waiting and held entries."""
    entries: dict[int, int]
    """Number of waiting entries by shard."""
    oldest_seconds: float
    """Age of the oldest waiting entry."""
    dead_letters: int
    held: int
    """Number of held entries (`HeldEntries`)."""


@dataclass(frozen=True, slots=True)
class AppendResult:
    """Result of `Backlog.append`: the entries were added, or their request is a repeat."""

    first_answer: bytes | None = None
    """The first answer to a repeated request; None if the entries were added."""
    ends: dict[int, int] = field(default_factory=dict)
    """By shard: the bytes ever added to the shard, up to the last of the entries."""
    held: int = 0
    """Number of held entries (`HeldEntries`)."""
    session_renewals: int = 0
    """How often writers have requested new sessions (`Backlog.request_new_sessions`)."""


@dataclass(frozen=True, slots=True)
class RememberedRequest:
    """A request with an Idempotency-Key, and the limits on how many of them are remembered."""

    names: tuple[str, ...]
    """The key in Redis that remembers the request, then those under which other versions may have
    remembered it."""
    seconds: int
    """How long the request is remembered."""
    answer: bytes
    """The answer to the request and its repeats."""
    max_requests: int
    """Maximum number of remembered requests."""
    counter: str
    """The key in Redis that counts the remembered requests of the client."""
    max_requests_of_client: int
    """Maximum of that counter."""


class Guard(NamedTuple):
    """A counter in Redis, and the limit at which nothing is appended."""

    name: str
    limit: int


class Backlog:
    """The streams of all shards, and their counters."""

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
        self._client = client
        self._names = names
        self._wait_replicas = wait_replicas
        self._wait_fsync = wait_fsync
        self._waits = bool(wait_replicas or wait_fsync)
        if wait_fsync:
            wait_command: tuple[Any, ...] = ("WAITAOF", 1, wait_replicas, WAIT_MILLISECONDS)
        elif wait_replicas:
            wait_command = ("WAIT", wait_replicas, WAIT_MILLISECONDS)
        else:
            wait_command = ()
        self._shards = shards
        self._max_bytes = max_bytes
        # Formatted once, and not for each append.
        self._append_keys = (names.backlog_counters, names.job_list)
        self._stream_and_job = cache(lambda shard: (names.stream(shard), drain_job(shard)))
        # WAIT and WAITAOF cover the writes of their connection alone, so they follow the
        # appends in the same pipeline.
        self._append = GroupCommit(
            client, load_script(client, "backlog_append.lua"), trailing_command=wait_command
        )
        self._remove = load_script(client, "backlog_remove.lua")
        self._enqueue_once = load_script(client, "backlog_enqueue_once.lua")
        self._take = load_script(client, "backlog_take.lua")

    def append(
        self,
        entries: Sequence[tuple[int, bytes]],
        request: RememberedRequest | None = None,
        guards: Sequence[Guard] = (),
    ) -> AppendResult:
        """Add sealed entries, given as (shard, sealed), and queue the drains of their shards.

        The script adds all entries or none. Once `append` returns, the entries are acknowledged.
        A caller that got no answer may append the same bytes again: the writer stores an entry
        once, even if the stream has several copies. If `request` is remembered already, nothing is
        added, and its first answer is returned.

        Raises:
            TooLargeError: the entries are larger than an empty backlog may become.
            GuardedError: one of `guards` is at its limit; nothing was added.
            TooManyRequestsError: the client has too many remembered requests; nothing was added.
            UnavailableError: nothing was added, because the backlog is full, too many requests are
                remembered, or a counter is damaged (`BacklogCounters`). Or the entries were added,
                but fewer than `wait_replicas` replicas (with `wait_fsync`: fewer disks) confirmed
                them in time: a failover may lose them.
            RedisError: Redis is away; whether the entries were added is unknown.
        """
        size = sum([len(sealed) for _, sealed in entries])
        if size > self._max_bytes:
            raise TooLargeError("the request is larger than the backlog may be")
        keys = list(self._append_keys)
        arguments: list[str | int | bytes] = [self._max_bytes, len(guards)]
        if request is None:
            arguments.append("")
        else:
            name, *other_names = request.names
            arguments += (
                name, request.seconds, request.answer,
                self._names.remembered_counts, request.max_requests,
                request.counter, request.max_requests_of_client, len(other_names), *other_names,
            )  # fmt: skip
        for guard in guards:
            arguments += guard
        for shard, sealed in entries:
            stream, job = self._stream_and_job(shard)
            keys.append(stream)
            arguments += (shard, job, sealed)
        (outcome, *more), wait_answer = self._append.run(keys, arguments, size)
        # A repeated request waits too: its first attempt may have failed because replicas were
        # missing, and the repeat must not be answered 201 before they have the entries.
        if self._waits and outcome in {AppendOutcome.ADDED, AppendOutcome.REMEMBERED}:
            self._check_wait_answer(wait_answer)
        if outcome == AppendOutcome.REMEMBERED:
            return AppendResult(first_answer=more[0])
        if outcome == AppendOutcome.DAMAGED:
            sentence = "the counters of the backlog in Redis are damaged; a writer repairs them"
            raise UnavailableError(f"{_logged(sentence)}; nothing was stored, try again")
        if outcome != AppendOutcome.ADDED:
            refuse(outcome, *more)
        held, renewals, *totals = more
        ends = {shard: end for (shard, _), end in zip(entries, totals, strict=True)}
        return AppendResult(ends=ends, held=held, session_renewals=renewals)

    def try_append(self) -> None:
        """Send the commands of `append` without effect. Raises `RedisError` if it would fail."""
        self._client.xadd(self._names.unused_stream, {"e": b""}, nomkstream=True)

    def try_remove(self) -> None:
        """Send the commands of `remove` without effect. Raises `RedisError` if it would fail."""
        self._client.xtrim(self._names.unused_stream, minid="0", approximate=False)

    def first_answer(self, request_names: Sequence[str]) -> bytes | None:
        """Return the first answer of a request that is remembered under one of these names.

        None if the request is not remembered, and always if `append` waits for replicas or disks:
        then only `append` may answer a repeated request.
        """
        if self._waits:
            return None
        answers = cast("list[bytes | None]", self._client.mget(request_names))
        return next((answer for answer in answers if answer is not None), None)

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

    def _check_wait_answer(self, answer: Any) -> None:
        if isinstance(answer, ResponseError) and "WAITAOF" in str(answer):
            raise UnavailableError(
                _logged(f"Redis refuses WAITAOF (IOT_REDIS_WAIT_FSYNC): {answer}")
            )
        if isinstance(answer, Exception):
            raise answer
        local, replicas = answer if self._wait_fsync else (1, answer)
        if replicas < self._wait_replicas:
            # This master may be cut off from its replicas, and one of them may be the master now.
            # New connections resolve the name in the URL again.
            renew_connections(self._client)
            sentence = f"{replicas} of {self._wait_replicas} replicas have the readings"
            raise UnavailableError(f"{_logged(sentence)}; try again")
        if not local:
            sentence = "Redis has not put the readings on its disk"
            raise UnavailableError(f"{_logged(sentence)}; try again")

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
            oldest_seconds=max(0.0, *(age or 0.0 for _, _, age in lengths)),
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


def _logged(sentence: str) -> str:
    """Log why readings are not acknowledged. Return the reason for the error message.

    The log line appears at most every ten seconds (`store_states.report`).
    """
    report(_log, "requests are answered 503", UnavailableError(sentence))
    return sentence
