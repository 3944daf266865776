"""Drains of a writer in this process."""

from collections.abc import Sequence

from iot_stores.backlog import Backlog
from iot_stores.stream_entries import WaitingEntry
from iot_writer.drain.drain import DrainOutcome
from iot_writer.writer import Writer


def drain_all(writer: Writer) -> None:
    """Drain every shard until it is empty. One drain may not reach all shards."""
    waiting = list(range(writer.settings.shards))
    while waiting:
        outcomes = writer.drain.run(writer.postgres(), waiting).outcomes
        waiting = [shard for shard in waiting if outcomes.get(shard) != DrainOutcome.EMPTY]


def read_waiting(backlog: Backlog, shard: int, *, max_bytes: int = 2**20) -> Sequence[WaitingEntry]:
    """Return the oldest waiting entries of a shard, as a drain reads them."""
    (waiting,) = backlog.read_shards([shard], max_bytes=max_bytes)
    return waiting.entries
