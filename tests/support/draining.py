"""Drains of a writer in this process."""

from iot_writer.drain.drain import DrainOutcome
from iot_writer.writer import Writer


def drain_all(writer: Writer) -> None:
    """Drain every shard until it is empty. One drain may not reach all shards."""
    waiting = list(range(writer.settings.shards))
    while waiting:
        outcomes = writer.drain.run(writer.postgres(), waiting).outcomes
        waiting = [shard for shard in waiting if outcomes.get(shard) != DrainOutcome.EMPTY]
