"""Entries as they wait in the streams of the backlog, and what becomes of them."""

from collections.abc import Sequence
from dataclasses import dataclass

from .months import END_MS


@dataclass(frozen=True, slots=True)
class WaitingEntry:
    """An entry as it waits: its id in the stream, its sealed bytes, the shard's bytes up to it."""

    entry_id: bytes
    sealed: bytes
    bytes_so_far: int
    read_at: int
    """Unix milliseconds of Redis's clock."""
    held_since: int | None = None
    """When it was received, of an entry that was held (`held_entries`)."""

    @property
    def received(self) -> int:
        """Unix milliseconds of Redis's clock. Falls within a stream at entries that were held."""
        return self._added if self.held_since is None else self.held_since

    @property
    def has_valid_time(self) -> bool:
        """Whether its times are in a month that the history can hold. An id that was planted in
        Redis may be beyond the year 9999.
        """
        return max(self.received, self._added) < END_MS

    @property
    def _added(self) -> int:
        return int(self.entry_id.partition(b"-")[0])


@dataclass(frozen=True, slots=True)
class HeldEntry:
    """An entry that is not stored, because Postgres does not have its vault."""

    entry: WaitingEntry
    vault_id: bytes


@dataclass(frozen=True, slots=True)
class Removal:
    """Up to which entry a shard is to be cleared."""

    shard: int
    last: WaitingEntry
    position: str
    """Where the history stands then (`backlog.DrainPosition`)."""
    next_id: int
    """Id of the shard's next reading."""
    held: Sequence[HeldEntry] = ()
    """Those of the entries that are held instead (`held_entries`)."""

    @property
    def resets_ids(self) -> bool:
        """Whether the stream's ids are to begin anew when it is empty: they never fall, so after an
        impossible one each later id is impossible too.
        """
        return not self.last.has_valid_time


@dataclass(frozen=True, slots=True)
class ShardProgress:
    """What a shard has given out, as far as Redis knows."""

    position: str | None
    """As `backlog.DrainPosition.position`."""
    next_id: int
    """No id from here on was given."""


def stream_order(position: str) -> tuple[int, int]:
    """What orders the positions in a stream."""
    milliseconds, _, sequence = position.partition("-")
    return int(milliseconds), int(sequence)
