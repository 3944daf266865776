"""Entries in the streams of the backlog, and what a drain does with them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import cast

from redis import Redis

from .months import END_MS

MAX_ID_PART = 2**64 - 1
"""Maximum of each of the two numbers in a stream id."""
_PAGE = 100

StreamItem = tuple[bytes, dict[bytes, bytes]]
"""Id and fields of an item of a stream, as Redis returns them."""


@dataclass(slots=True)
class WaitingEntry:
    """An entry that waits in the stream of a shard."""

    entry_id: bytes
    sealed: bytes
    bytes_so_far: int
    """Number of sealed bytes ever added to the shard, up to and including this entry."""
    read_at: int
    """When the entry was read from the stream, in Unix milliseconds of Redis's clock."""
    first_received: int | None = None
    """Time of receipt of a held entry that was released, or of a dead letter that is replayed; None
    for other entries."""
    traceparent: bytes = b""
    """The span of the request that appended the entry; empty if the request was not traced."""
    received: int = field(init=False, compare=False)
    """Time of receipt, in Unix milliseconds of Redis's clock.

    Times of receipt rise within a stream, except that released and replayed entries keep their
    first time of receipt."""
    has_valid_time: bool = field(init=False, compare=False)
    """Whether the time in the entry's id and the time of receipt are before `months.END_MS`.

    Another program may have added an item whose id has a later time. The history can't have a
    partition for such a time."""

    def __post_init__(self) -> None:
        # Computed once: a drain compares the times several times for each entry.
        added = int(self.entry_id.partition(b"-")[0])
        self.received = received = added if self.first_received is None else self.first_received
        self.has_valid_time = added < END_MS and received < END_MS


@dataclass(frozen=True, slots=True)
class HeldEntry:
    """An entry that can't be stored, because its vault is missing in Postgres."""

    entry: WaitingEntry
    vault_id: bytes


@dataclass(frozen=True, slots=True)
class Removal:
    """The entries to remove from the stream of a shard after a drain."""

    shard: int
    last: WaitingEntry
    """The last entry to remove: all earlier entries are removed, too. If the stream lacks this
    entry, nothing is removed."""
    position: str
    """The shard's position in the ledger after the drain (`ledger.Offset.position`)."""
    next_id: int
    """Id of the shard's next reading."""
    held: Sequence[HeldEntry] = ()
    """Removed entries that move to the held entries (`held_entries`)."""
    is_uncovered: bool = False
    """Whether reads of `seconds/<n>` that begin before the time of this removal must use Postgres.

    True if the hot window may lack readings of the removed entries. Also true if a vault of these
    entries belongs to another shard now, because `IOT_SHARDS` was changed: reads of this vault rely
    on the cover of its present shard, which says nothing about entries of the former shard."""

    @property
    def resets_ids(self) -> bool:
        """Whether to delete the stream once it is empty, so that new ids have the current time.

        True if the time in the last entry's id is too late for any partition
        (`WaitingEntry.has_valid_time`). Redis makes each new id greater than the last one, so all
        later entries would be too late, too.
        """
        return not self.last.has_valid_time


@dataclass(frozen=True, slots=True)
class ShardProgress:
    """How far a shard is drained and how much still waits, according to the counters in Redis."""

    position: str | None
    """The position after the last drain that removed entries; None if it is unknown."""
    next_id: int
    """The id of the shard's next reading; 0 if it is unknown."""
    bytes: int = 0
    """Approximate number of sealed bytes that wait."""
    entries: int = 0
    """Number of entries that wait."""


@dataclass(frozen=True, slots=True)
class WaitingShard:
    """The oldest waiting entries of a shard, and the progress of the shard."""

    shard: int
    entries: Sequence[WaitingEntry]
    progress: ShardProgress
    """The progress before the entries were read."""


def stream_order(position: str) -> tuple[int, int]:
    """Return a sort key for a position, which is the id of an entry, such as `1795414643286-0`."""
    milliseconds, _, sequence = position.partition("-")
    return int(milliseconds), int(sequence)


def read_stream(client: "Redis", name: str) -> Iterator[StreamItem]:
    """Yield all items of a stream, the oldest first. Read 100 items at a time."""
    after = "-"
    while page := cast("list[StreamItem]", client.xrange(name, after, "+", count=_PAGE)):
        yield from page
        after = f"({page[-1][0].decode()}"
