"""A history of small segments as drains write them, and its compaction step by step."""

import json
import os
import random
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Any, cast

from integration.writer.sending import Sender
from iot_cipher.encryption import SALT_BYTES, Entry
from iot_models.reading import Reading
from iot_stores import history
from iot_stores.months import DAY_MS, month_begin
from iot_writer.compaction.compactor import CompactionOutcome
from iot_writer.drain.segment_builder import Arrival, build_segments
from iot_writer.maintenance.partitions import ensure_partition
from iot_writer.writer import Writer
from support.keys import KEYS
from support.segment_rows import reading_columns

FIRST_ID = 2**40
"""The first segment id, far above the ids of drains."""

Sent = tuple[int, int, int, str]
"""Time of receipt, interrogator timestamp, relative time and freeform of a reading."""


def days_ago(days: float) -> int:
    """Return the time this many days ago, in Unix milliseconds."""
    return int((time.time() - days * 86_400) * 1000)


def noon(days: int) -> int:
    """Return noon of the day this many days ago."""
    return days_ago(days) // DAY_MS * DAY_MS + DAY_MS // 2


def each_second(begin: int, number: int, *, seed: int = 1) -> list[Sent]:
    """Return the readings of a device that reports one tag a second; all readings differ."""
    chance = random.Random(seed)
    sent = []
    for place in range(number):
        moment = begin * 1000 + place * 1_000_000 + chance.randint(-400, 400)
        freeform = {
            "rssi": chance.randint(-85, -40), "epc96": f"{chance.randrange(50):024x}",
            "doppler": chance.randint(-8, 8), "phase": chance.randrange(4096),
            "antenna": chance.randint(1, 4), "rospecid": 0, "channelindex": chance.randrange(50),
            "tagseencount": 1, "accessspecid": 0, "lastseentimestamp": moment,
        }  # fmt: skip
        received = moment // 1000 + chance.randint(10, 40)
        sent.append((received, moment, moment - begin * 1000, json.dumps(freeform)))
    return sent


@dataclass
class Past:
    """A history with segments of any size, written as drains write them."""

    sender: Sender
    writer: Writer
    _ids: Iterator[int] = field(default_factory=lambda: count(0))

    def store(self, password: bytes, sent: Iterable[Sent], *, each: int = 1) -> None:
        """Store readings in segments of `each`, received together with their last reading."""
        sent = list(sent)
        vault = self.sender.vault(password)
        shard = vault.shard(self.sender.settings.shards)
        segments = []
        for start in range(0, len(sent), each):
            part = sent[start : start + each]
            columns = reading_columns(
                (relative, interrogator, text.encode()) for _, interrogator, relative, text in part
            )
            salt = os.urandom(SALT_BYTES)
            entry = Entry(vault.vault_id.bytes, salt, vault.chunk_key(salt), 0, columns)
            first = FIRST_ID + shard + 256 * 10_000 * next(self._ids)
            made, _ = build_segments([Arrival(part[-1][0], entry)], shard=shard, next_id=first)
            segments += made
        connection = self.writer.postgres()
        for month in {month_begin(each.bounds.received_min) for each in segments}:
            ensure_partition(connection, month)
        with connection.transaction():
            history.insert(connection, segments)

    def restart_ids(self) -> None:
        """Issue the same segment ids again from now on."""
        self._ids = count(0)

    def look(self, password: bytes) -> int:
        """Plan the orders of a vault, recently planned or not; return their number."""
        vault = self.sender.vault(password)
        for name in (KEYS.compaction_looked, KEYS.compaction_looked_back):
            self.sender.redis.delete(name(vault.vault_id.bytes))
        return self.sender.service.compaction.look(vault)

    def work(self) -> list[CompactionOutcome]:
        """Execute all orders and return their outcomes."""
        outcomes: list[CompactionOutcome] = []
        writer = self.writer
        while (outcome := writer.compaction.run(writer.postgres())[0]) != CompactionOutcome.EMPTY:
            outcomes.append(outcome)
        return outcomes

    def compact(self, password: bytes) -> int:
        """Plan and execute until no segments are left to merge; return the number of orders.

        An API process that opened the vault may have made the same orders. Then one of two equal
        orders finds its segments gone.
        """
        done = 0
        while self.look(password):
            outcomes = self.work()
            assert set(outcomes) <= {CompactionOutcome.MERGED, CompactionOutcome.GONE}
            done += outcomes.count(CompactionOutcome.MERGED)
        return done

    def readings(self, password: bytes) -> list[Reading]:
        """Return all readings of a password, in order."""
        return self.sender.readings(password)

    def counts(self, password: bytes) -> list[int]:
        """Return the number of readings of each segment of the vault, by time of receipt."""
        rows = self.rows("SELECT count FROM segments WHERE vault_id = %s ORDER BY received_min",
                         self.sender.vault(password).vault_id)  # fmt: skip
        return [row[0] for row in rows]

    def rows(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """Return the rows of a statement."""
        found = self.writer.postgres().execute(cast("Any", statement), values)
        return cast("list[tuple[Any, ...]]", found.fetchall())
