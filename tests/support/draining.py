"""Drains of a writer in this process."""

from iot_writer.drain.drain import DrainOutcome
from iot_writer.writer import Writer


def drain_all(writer: Writer) -> None:
    """Drain every shard until the backlog is empty."""
    shards = range(writer.settings.shards)
    while {*writer.drain.run(writer.postgres(), shards).outcomes.values()} != {DrainOutcome.EMPTY}:
        continue
