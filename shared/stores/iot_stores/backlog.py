"""The backlog: sealed entries that are acknowledged and wait to be stored, one stream a shard."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, cast

from redis import Redis

from iot_models import names
from iot_models.errors import UnavailableError

_PAGE = 128
"""Entries fetched at a time; the first page decides whether another is worth its round trip."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """An entry as it waits: its id in the stream, its sealed bytes, the shard's bytes up to it."""

    entry_id: bytes
    sealed: bytes
    bytes_so_far: int

    @property
    def received(self) -> int:
        """Unix milliseconds of Redis's clock, never falling within a stream."""
        return int(self.entry_id.partition(b"-")[0])


@dataclass(frozen=True, slots=True)
class BacklogState:
    """How much waits, and for how long."""

    bytes: int
    entries: dict[int, int]
    oldest_seconds: float
    dead_letters: int


def _script(client: "Redis", name: str) -> Any:
    return client.register_script(resources.files(__package__).joinpath(name).read_text())


class Backlog:
    """The streams of all shards."""

    def __init__(self, client: "Redis", *, shards: int, max_bytes: int) -> None:
        self._client = client
        self._shards = shards
        self._max_bytes = max_bytes
        self._append = _script(client, "backlog_append.lua")
        self._remove = _script(client, "backlog_remove.lua")
        self._bury = _script(client, "backlog_bury.lua")
        self._arm = _script(client, "backlog_arm.lua")

    def append(self, entries: Sequence[tuple[int, bytes]]) -> None:
        """Add sealed entries, pairs of (shard, sealed), and make sure their drains are queued.

        All of them or none, in one step that Redis does whole. Once it returns they are never
        lost. It may be repeated with the same bytes when its answer got lost: the writer stores
        an entry once, however often it stands in the stream.

        Raises:
            UnavailableError: the backlog is full; nothing was added.
            RedisError: Redis is away; it can't be told whether they were added.
        """
        keys = [names.BACKLOG_COUNTERS, names.JOB_LIST]
        arguments: list[str | int | bytes] = [self._max_bytes]
        for shard, sealed in entries:
            keys.append(names.stream(shard))
            arguments += (shard, names.drain_job(shard), sealed)
        if not self._append(keys=keys, args=arguments):
            raise UnavailableError("the backlog is full; nothing was stored", retry_after=5)

    def read(self, shard: int, *, max_bytes: int) -> list[Waiting]:
        """The oldest entries of a shard, in order, at least one if there is one.

        Stops after the page of entries that reaches `max_bytes`.
        """
        waiting: list[Waiting] = []
        held = 0
        while True:
            after = b"(" + waiting[-1].entry_id if waiting else b"-"
            page = cast(
                "list[tuple[bytes, dict[bytes, bytes]]]",
                self._client.xrange(names.stream(shard), after, b"+", count=_PAGE),
            )
            for entry_id, fields in page:
                waiting.append(Waiting(entry_id, fields[b"e"], int(fields[b"t"])))
                held += len(fields[b"e"])
                if held >= max_bytes:
                    return waiting
            if len(page) < _PAGE:
                return waiting

    def remove(self, shard: int, last: Waiting) -> int:
        """Drop a shard's entries up to `last`, which are stored; how many are left.

        May be repeated: what is gone is not counted twice.
        """
        keys = [names.stream(shard), names.BACKLOG_COUNTERS]
        arguments = [_after(last.entry_id), shard, last.bytes_so_far]
        return cast("int", self._remove(keys=keys, args=arguments))

    def bury(self, shard: int, waiting: Waiting, reason: str) -> bool:
        """Copy an entry that can't be stored to the dead letters, once; False if it is there.

        It leaves the stream with the entries around it, by `remove`.
        """
        keys = [names.DEAD_LETTERS, f"{names.DEAD_LETTERS}:{shard}"]
        arguments = [shard, waiting.entry_id, waiting.sealed, reason]
        return bool(self._bury(keys=keys, args=arguments))

    def arm(self, jobs: Sequence[str]) -> int:
        """Queue the jobs that don't wait already; how many were queued."""
        return cast("int", self._arm(keys=[names.JOB_LIST], args=list(jobs)))

    def shards(self) -> list[int]:
        """All that take entries, and those that took some before their number was changed."""
        counted = cast("list[bytes]", self._client.hkeys(names.BACKLOG_COUNTERS))
        used = {int(field[3:]) for field in counted if field.startswith(b"in:")}
        return sorted(used.union(range(self._shards)))

    def oldest(self) -> dict[int, float]:
        """For each shard in which entries wait: the age in seconds of the oldest."""
        return {shard: age for shard, _, age in self._lengths() if age is not None}

    def state(self) -> BacklogState:
        """What waits, for metrics and readiness."""
        held = self._client.hget(names.BACKLOG_COUNTERS, "bytes")
        lengths = list(self._lengths())
        return BacklogState(
            bytes=int(cast("bytes", held or b"0")),
            entries={shard: length for shard, length, _ in lengths},
            oldest_seconds=max((age for _, _, age in lengths if age is not None), default=0.0),
            dead_letters=self._client.xlen(names.DEAD_LETTERS),
        )

    def _lengths(self) -> Iterator[tuple[int, int, float | None]]:
        shards = self.shards()
        with self._client.pipeline(transaction=False) as pipeline:
            pipeline.time()
            for shard in shards:
                pipeline.xlen(names.stream(shard))
                pipeline.xrange(names.stream(shard), count=1)
            (seconds, micros), *answers = pipeline.execute()
        now = seconds * 1000 + micros // 1000
        for shard, length, first in zip(shards, answers[::2], answers[1::2], strict=True):
            received = int(first[0][0].partition(b"-")[0]) if first else None
            yield shard, length, None if received is None else max(0, now - received) / 1000


def _after(entry_id: bytes) -> bytes:
    milliseconds, _, sequence = entry_id.partition(b"-")
    return b"%b-%d" % (milliseconds, int(sequence) + 1)
