"""A compromised writer: it has the keyring, Redis and Postgres, but no password."""

import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from integration.compaction.past import Past
from iot_cipher.encryption import Opener, SealedSegment, decode_entry, decrypt_with_chunk_key
from iot_cipher.keyring import Keyring, KeyringFile
from iot_cipher.sealed_order import open_order, seal_order
from iot_models.compaction_order import CompactionOrder, decode_order
from iot_models.errors import DecryptionError, FormatError
from iot_models.segment import decode_segment
from iot_stores import history
from iot_stores.history import ReadFilter
from iot_writer.maintenance.partitions import ensure_partition
from support.draining import read_waiting
from support.keys import KEYS


@dataclass
class Thief:
    """The keys and segments that a compromised writer has collected, and its attacks."""

    past: Past
    vault_id: uuid.UUID
    """Id of the attacked vault."""
    keys: dict[bytes, set[bytes]] = field(default_factory=dict)
    """Chunk keys by salt."""
    rows: list[SealedSegment] = field(default_factory=list)
    """All segments that the thief has seen."""

    @property
    def keyring(self) -> Keyring:
        return KeyringFile(Path(self.past.sender.settings.keyring_file)).current()

    def orders(self) -> list[CompactionOrder]:
        """Return the queued orders."""
        found = self.past.sender.redis.lrange(KEYS.compaction_orders, 0, -1)
        return [decode_order(open_order(self.keyring, cast("bytes", each))) for each in found]

    def push(self, order: CompactionOrder) -> None:
        """Queue a forged order."""
        self.past.sender.redis.rpush(
            KEYS.compaction_orders, seal_order(self.keyring, order.encode())
        )

    def collect(self) -> None:
        """Collect all keys and segments in reach."""
        for order in self.orders():
            pairs = [(each.salt, each.chunk_key) for each in order.sources]
            pairs += [(each.salt, each.chunk_key) for each in order.targets]
            for salt, key in pairs:
                self.keys.setdefault(salt, set()).add(key)
        backlog = self.past.writer.backlog
        for shard in range(self.past.sender.settings.shards):
            for waiting in read_waiting(backlog, shard, max_bytes=2**20):
                opened = Opener(lambda: self.keyring).open(shard, waiting.sealed)
                entry = decode_entry(opened.content)
                self.keys.setdefault(entry.salt, set()).add(entry.chunk_key)
        self.rows += self.segments()

    def segments(self) -> list[SealedSegment]:
        """Return the current rows of the vault."""
        return list(history.select(self.past.writer.postgres(), self.vault_id, ReadFilter()))

    def plant(self, segments: Iterable[SealedSegment]) -> None:
        """Insert rows into the history."""
        segments = list(segments)
        connection = self.past.writer.postgres()
        ensure_partition(connection, segments[0].bounds.received_min)
        with connection.transaction():
            history.insert(connection, segments)

    def texts(self) -> set[str]:
        """Return all texts that any known key decrypts."""
        every = {key for some in self.keys.values() for key in some}
        found: set[str] = set()
        for row in self.rows:
            for key in every:
                try:
                    content = decrypt_with_chunk_key(row.vault_id, key, row.bounds, row.payload)
                    found |= set(decode_segment(row.bounds, content).freeform)
                except (DecryptionError, FormatError):
                    continue
        return found
