"""The backlog: sealed entries that are acknowledged and wait to be stored, one stream a shard."""

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
from .stream_entries import Removal, ShardProgress, WaitingEntry

WAIT_MILLISECONDS = 2000
"""How long replicas, and disks, may take to have what was appended: fsync comes every second."""
_PAGE = 128
"""Entries fetched at a time; the first page decides whether another is worth its round trip."""
_GREATEST = 2**64 - 1
"""Of both parts of an entry's id."""
_log = logging.getLogger(__name__)

_Page = list[tuple[bytes, dict[bytes, bytes]]]


@dataclass(frozen=True, slots=True)
class DrainPosition:
    """Up to where a shard is drained."""

    now: int
    """Unix milliseconds, by the clock that stamps readings."""
    position: str | None
    """Where the history stood when entries were removed last (`Offset.position`), if known."""


@dataclass(frozen=True, slots=True)
class BacklogState:
    """How much waits, and for how long."""

    bytes: int
    entries: dict[int, int]
    oldest_seconds: float
    dead_letters: int
    held: int
    """Entries that wait for their vaults (`HeldEntries`)."""


@dataclass(frozen=True, slots=True)
class AppendResult:
    """What became of entries: they were added, or their request was answered before."""

    first_answer: bytes | None = None
    ends: dict[int, int] = field(default_factory=dict)
    """Per shard the bytes ever added to it, up to the last of the entries."""
    held: int = 0
    """How many entries wait for their vaults by now (`HeldEntries`)."""
    session_renewals: int = 0
    """How often writers have asked for new sessions (`Backlog.ask_for_new_sessions`)."""


@dataclass(frozen=True, slots=True)
class RememberedRequest:
    """A request that is answered once."""

    name: str
    other_name: str
    """Under which it may have been remembered, by another version."""
    seconds: int
    answer: bytes
    max_requests: int
    """Requests that may be remembered at a time,"""
    counter: str
    """and the counter of those that its client sent,"""
    max_requests_of_client: int
    """of which there may be so many."""


class Guard(NamedTuple):
    """A counter in Redis; at its limit, nothing is appended."""

    name: str
    limit: int


class Backlog:
    """The streams of all shards."""

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
            behind: tuple[Any, ...] = ("WAITAOF", 1, wait_replicas, WAIT_MILLISECONDS)
        elif wait_replicas:
            behind = ("WAIT", wait_replicas, WAIT_MILLISECONDS)
        else:
            behind = ()
        self._shards = shards
        self._max_bytes = max_bytes
        # Formatted once, and not for each append.
        self._append_keys = (names.backlog_counters, names.job_list)
        self._stream_and_job = cache(lambda shard: (names.stream(shard), drain_job(shard)))
        # WAIT and WAITAOF speak of the connection that wrote: they go behind what it wrote.
        self._append = GroupCommit(client, load_script(client, "backlog_append.lua"), behind=behind)
        self._remove = load_script(client, "backlog_remove.lua")
        self._enqueue_once = load_script(client, "backlog_enqueue_once.lua")
        self._take = load_script(client, "backlog_take.lua")

    def append(
        self,
        entries: Sequence[tuple[int, bytes]],
        request: RememberedRequest | None = None,
        guards: Sequence[Guard] = (),
    ) -> AppendResult:
        """Add sealed entries, pairs of (shard, sealed), and make sure their drains are queued.

        All of them or none, in one step that Redis does whole; once it returns they are never
        lost. It may be repeated with the same bytes when its answer got lost: the writer stores
        an entry once, however often it stands in the stream. A `request` that is remembered adds
        nothing: its first answer is returned.

        Raises:
            TooLargeError: it would not fit an empty backlog.
            GuardedError: one of `guards` is at its limit; nothing was added.
            TooManyRequestsError: the client has too many requests that are remembered; nothing was
                added.
            UnavailableError: the backlog is full, too many requests are remembered, or a counter
                is damaged (`BacklogCounters`), and nothing was added; or fewer replicas than
                `wait_replicas` had the entries in time (with `wait_fsync`: on their disks, and
                the master on its own), and it can't be told whether they stay.
            RedisError: Redis is away; it can't be told whether they were added.
        """
        size = sum([len(sealed) for _, sealed in entries])
        if size > self._max_bytes:
            raise TooLargeError("the request is larger than the backlog may be")
        keys = list(self._append_keys)
        arguments: list[str | int | bytes] = [self._max_bytes, len(guards)]
        if request is None:
            arguments.append("")
        else:
            arguments += (
                request.name, request.seconds, request.answer, request.other_name,
                self._names.remembered_counts, request.max_requests,
                request.counter, request.max_requests_of_client,
            )  # fmt: skip
        for guard in guards:
            arguments += guard
        for shard, sealed in entries:
            stream, job = self._stream_and_job(shard)
            keys.append(stream)
            arguments += (shard, job, sealed)
        (outcome, *more), reached = self._append.run(keys, arguments, size)
        if self._waits and outcome in {AppendOutcome.ADDED, AppendOutcome.REMEMBERED}:
            self._check_reached(reached)
        if outcome == AppendOutcome.REMEMBERED:
            return AppendResult(first_answer=more[0])
        if outcome == AppendOutcome.DAMAGED:
            sentence = "the counters of the backlog in Redis are damaged, and a writer repairs them"
            raise UnavailableError(f"{_logged(sentence)}; nothing was stored, try again")
        if outcome != AppendOutcome.ADDED:
            refuse(outcome, *more)
        held, renewals, *totals = more
        ends = {shard: end for (shard, _), end in zip(entries, totals, strict=True)}
        return AppendResult(ends=ends, held=held, session_renewals=renewals)

    def try_append(self) -> None:
        """Send what `append` sends, and change nothing. Raises `RedisError`, as `append` does."""
        self._client.xadd(self._names.unused_stream, {"e": b""}, nomkstream=True)

    def try_remove(self) -> None:
        """Send what `remove` sends, and change nothing. Raises `RedisError`, as `remove` does."""
        self._client.xtrim(self._names.unused_stream, minid="0", approximate=False)

    def first_answer(self, names_of_request: Sequence[str]) -> bytes | None:
        """The first answer of a request that is remembered under one of its names, else None: a
        look that spares an `append`. With replicas or disks to wait for it is None always: only
        `append` waits.
        """
        if self._waits:
            return None
        answers = cast("list[bytes | None]", self._client.mget(names_of_request))
        return next((answer for answer in answers if answer is not None), None)

    def all_removed(self, ends: Mapping[int, int]) -> bool:
        """Whether all up to these ends left the streams: is stored, and in the hot window too, or
        is set aside or held.
        """
        fields = [f"out:{shard}" for shard in ends]
        out = cast("list[bytes | None]", self._client.hmget(self._names.backlog_counters, fields))
        return all(parse_number(gone) >= end for gone, end in zip(out, ends.values(), strict=True))

    def _check_reached(self, reached: Any) -> None:
        if isinstance(reached, ResponseError) and "WAITAOF" in str(reached):
            raise UnavailableError(_logged(f"Redis can't do IOT_REDIS_WAIT_FSYNC: {reached}"))
        if isinstance(reached, Exception):
            raise reached
        local, replicas = reached if self._wait_fsync else (1, reached)
        if replicas < self._wait_replicas:
            # A master that was cut off from its replicas: by now another one may be master.
            renew_connections(self._client)
            sentence = f"{replicas} of {self._wait_replicas} replicas have the readings"
            raise UnavailableError(f"{_logged(sentence)}; try again")
        if not local:
            sentence = "Redis has not put the readings on its disk"
            raise UnavailableError(f"{_logged(sentence)}; try again")

    def read(self, shard: int, *, max_bytes: int) -> list[WaitingEntry]:
        """The oldest entries of a shard, in order, at least one if there is one.

        Stops after the page of entries that reaches `max_bytes`.
        """
        waiting: list[WaitingEntry] = []
        held = 0
        while True:
            after = b"(" + waiting[-1].entry_id if waiting else b"-"
            now, page = self._read_page(shard, after)
            for entry_id, fields in page:
                # Missing fields: planted in Redis. The drain sets such an entry aside.
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
                held += len(sealed)
                if held >= max_bytes:
                    return waiting
            if len(page) < _PAGE:
                return waiting

    def _read_page(self, shard: int, after: bytes) -> tuple[int, _Page]:
        """Redis's time, and the entries from `after` on."""
        with self._client.pipeline(transaction=False) as pipeline:
            pipeline.time()
            pipeline.xrange(self._names.stream(shard), after, b"+", count=_PAGE)
            time, page = pipeline.execute()
        return milliseconds(time), page

    def remove(self, removals: Sequence[Removal]) -> list[int]:
        """Drop entries that are stored or held, of each shard up to one; how many are left in each.

        May be repeated: what is gone is not counted twice.
        """
        calls = []
        for each in removals:
            keys = [
                self._names.stream(each.shard),
                self._names.backlog_counters,
                self._names.held_vaults,
            ]
            last = each.last
            arguments: list[str | int | bytes] = [
                _after(last.entry_id), each.shard, last.bytes_so_far, each.position,
                int(each.resets_ids), each.next_id,
            ]  # fmt: skip
            for hold in each.held:
                arguments += (
                    hold.entry.entry_id, hold.vault_id.hex(),
                    self._names.held_entries(hold.vault_id), hold.entry.received,
                )  # fmt: skip
            calls.append((keys, arguments))
        return run_all(self._client, self._remove, calls)

    def progress(self, shards: Sequence[int]) -> dict[int, ShardProgress]:
        """What shards have given out, as far as Redis knows."""
        fields = [f"{field}:{shard}" for shard in shards for field in ("at", "next")]
        found = self._client.hmget(self._names.backlog_counters, fields)
        known = iter(cast("list[bytes | None]", found))
        return {
            shard: ShardProgress(parse_position(at), parse_number(next_id))
            for shard, at, next_id in zip(shards, known, known, strict=True)
        }

    def has_held_entries(self) -> bool:
        """Whether entries wait for their vaults (`HeldEntries`)."""
        held = cast("bytes | None", self._client.hget(self._names.backlog_counters, "held"))
        return parse_number(held) > 0

    def ask_for_new_sessions(self) -> None:
        """Let each API process begin a new session at its next request."""
        self._client.hincrby(self._names.backlog_counters, "session_renewals", 1)

    def take_drains(self) -> list[int]:
        """Take all drains that wait off the queue: their shards, the one that waits longest first.

        Whoever takes them drains them; what is left by one who dies, the sweep queues again.
        """
        taken = self._take(keys=[self._names.job_list], args=[DRAIN_JOB_PREFIX])
        shards = cast("list[bytes]", taken)
        return [int(each) for each in shards if each.isdigit() and int(each) < MAX_SHARDS]

    def drain_position(self, shard: int) -> DrainPosition:
        """The moment, and up to where a shard was drained by then."""
        with self._client.pipeline(transaction=False) as pipeline:
            pipeline.time()
            pipeline.hget(self._names.backlog_counters, f"at:{shard}")
            time, position = pipeline.execute()
        at = parse_position(position)
        return DrainPosition(milliseconds(time), at)

    def now(self) -> int:
        """Unix milliseconds, by the clock that stamps readings."""
        return milliseconds(self._client.time())

    def enqueue_once(self, jobs: Sequence[str]) -> int:
        """Queue the jobs that don't wait already; how many were queued."""
        return cast("int", self._enqueue_once(keys=[self._names.job_list], args=list(jobs)))

    def shards(self) -> list[int]:
        """All that take entries, and those that took some before their number was changed."""
        counted = cast("list[bytes]", self._client.hkeys(self._names.backlog_counters))
        used = {shard for shard in map(parse_shard, counted) if shard is not None}
        return sorted(used.union(range(self._shards)))

    def oldest_ages(self) -> dict[int, float]:
        """For each shard in which entries wait: the age in seconds of the oldest; below 0 when
        Redis's clock was set back since.
        """
        return {shard: age for shard, _, age in self._lengths() if age is not None}

    def state(self) -> BacklogState:
        """What waits, for metrics and readiness."""
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
    """Log why readings are not acknowledged, as often as the state of a store is logged."""
    report(_log, "requests are answered 503", UnavailableError(sentence))
    return sentence


def _after(entry_id: bytes) -> bytes:
    """The least id after one; empty when it is the greatest that there is."""
    milliseconds, sequence = map(int, entry_id.split(b"-"))
    if sequence < _GREATEST:
        return b"%d-%d" % (milliseconds, sequence + 1)
    return b"%d-0" % (milliseconds + 1) if milliseconds < _GREATEST else b""
