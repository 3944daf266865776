"""Histories of any size, created in seconds, as if the service had run for months.

The segments that the measured reads reach are encrypted for the vault that is read, as a writer
encrypts them. All other segments have the bounds and the size of real segments, and random bytes as
payload: they cost Postgres as much as real ones, and a read that opens one of them by mistake
fails.
"""

import os
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass

import psycopg

from iot_cipher.encryption import SALT_BYTES, OpenVault, SealedSegment, encrypt_segment
from iot_models.reading import SEPARATOR, ReadingColumns, int64s
from iot_models.segment import ID_STRIDE, SegmentBounds
from iot_models.segment_encoding import encode_segment
from iot_stores import history
from iot_stores.months import month_begin
from iot_stores.postgres import Connection
from iot_writer.maintenance.partitions import ensure_partition

from .readings import freeform

MONTHS = 6
BATCH = 1000
"""Readings per segment, if a vault has that many."""
NEWEST = 3
"""How many of the newest segments of the vault that is read are encrypted."""
STEP_US = 1000
_DAY_MS = 86_400_000
_APART = 7_200_000
"""Milliseconds between the newest segments, so that the last hour holds one."""
_CLEAR = 5000
"""No other segment is within this many milliseconds of the segment in the middle."""
_NOISE = os.urandom(2**22)


@dataclass(frozen=True, slots=True)
class Size:
    """The size of a history."""

    readings: int
    vaults: int

    @property
    def segments(self) -> int:
        """Number of segments: one per `BATCH` readings, and at least one per vault."""
        return max(self.readings // BATCH, self.vaults)

    @property
    def batch(self) -> int:
        """Readings per segment."""
        return max(1, self.readings // self.segments)

    def __str__(self) -> str:
        return f"{self.readings:,} readings, {self.vaults:,} vaults"


@dataclass(frozen=True, slots=True)
class Window:
    """The first and the last relative time, in microseconds, of `BATCH` readings of the vault."""

    low: int
    high: int


def fill(postgres_url: str, vault: OpenVault, size: Size, shards: int) -> Window:
    """Store a history. Return the relative times of an encrypted segment in the middle."""
    now = int(time.time() * 1000)
    begins = [month_begin(now)]
    while len(begins) < MONTHS:
        begins.insert(0, month_begin(begins[0] - 1))
    began = begins[0]
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        # With wal_level=minimal, rows of tables made in the same transaction need no WAL.
        with connection.transaction():
            for begin in begins:
                ensure_partition(connection, begin)
            history.insert(connection, _rows(vault, size, shards, began, now))
            middle = _true(vault, began, (began + now) // 2, shards, size.segments)
            newest = [
                _true(vault, began, now - 5000 - _APART * age, shards, size.segments + NEWEST - age)
                for age in range(NEWEST)
            ]
            history.insert(connection, [middle, *newest])
            connection.execute(_USED_IDS, [newest[0].bounds.last_id])
        for statement in ("VACUUM ANALYZE segments", "CHECKPOINT"):
            connection.execute(statement)
    return Window(middle.bounds.relative_min, middle.bounds.relative_max)


def _rows(
    vault: OpenVault, size: Size, shards: int, began: int, now: int
) -> Iterator[SealedSegment]:
    """Yield the segments with random payloads, in the order of their time of receipt."""
    ids = [vault.vault_id, *(uuid.uuid4() for _ in range(size.vaults - 1))]
    length = len(_true(vault, began, began, shards, 0, size.batch).payload)
    end, middle = now - NEWEST * _APART, (began + now) // 2
    for number in range(size.segments):
        vault_id = ids[number % size.vaults]
        received = began + (end - began) * number // size.segments
        first = number * BATCH * ID_STRIDE
        moment = 1000 * received
        relative = moment - 1000 * began + _ahead(vault_id, vault)
        span = (size.batch - 1) * STEP_US
        bounds = SegmentBounds(
            first, first + (size.batch - 1) * ID_STRIDE, received, received,
            relative, relative + span, moment, moment + span,
            int.from_bytes(vault_id.bytes[:8], "big") % shards, size.batch,
        )  # fmt: skip
        place = number * 7919 % (len(_NOISE) - length)
        if abs(received - middle) > _CLEAR:
            yield SealedSegment(vault_id, bounds, _NOISE[place : place + length])


def _ahead(vault_id: uuid.UUID, asked: OpenVault) -> int:
    """Return by how many µs a vault's relative times are ahead of those of the vault `asked`."""
    if vault_id == asked.vault_id:
        return 0
    return (vault_id.bytes[0] - 100) * _DAY_MS * 1000


def _true(
    vault: OpenVault, began: int, received: int, shards: int, place: int, count: int = BATCH
) -> SealedSegment:
    moments = [1000 * received + STEP_US * number for number in range(count)]
    columns = ReadingColumns(
        int64s([moment - 1000 * began for moment in moments]),
        int64s(moments),
        SEPARATOR.join(freeform(number).encode() for number in range(count)),
    )
    first = place * BATCH * ID_STRIDE
    bounds, content = encode_segment([(received, columns)], first, vault.shard(shards))
    salt = os.urandom(SALT_BYTES)
    payload = encrypt_segment(vault.vault_id, salt, vault.chunk_key(salt), bounds, content)
    return SealedSegment(vault.vault_id, bounds, payload)


def pages(connection: Connection) -> tuple[int, int]:
    """Return how many pages of the history Postgres found in memory so far, and how many it read.

    Pages of indexes and TOAST are included.
    """
    row = connection.execute(_PAGES).fetchone()
    assert row is not None  # noqa: S101 - an aggregate has a row
    return int(str(row[0] or 0)), int(str(row[1] or 0))


# As after a change of the number of shards: the service assigns ids above all that were used.
_USED_IDS = """
    INSERT INTO ingest_offsets (shard, shards, position, received_max, next_id)
    VALUES (0, 0, '0-0', 0, %s)
    ON CONFLICT (shard) DO UPDATE SET shards = 0, next_id = excluded.next_id
"""
_PAGES = """
    SELECT
        sum(heap_blks_hit + coalesce(idx_blks_hit, 0)
            + coalesce(toast_blks_hit, 0) + coalesce(tidx_blks_hit, 0)),
        sum(heap_blks_read + coalesce(idx_blks_read, 0)
            + coalesce(toast_blks_read, 0) + coalesce(tidx_blks_read, 0))
    FROM pg_statio_user_tables WHERE relname LIKE 'segments%'
"""
