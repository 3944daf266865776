"""Synthetic histories of any number of months, vaults and rows; the payloads can't be decrypted."""

import uuid
from dataclasses import dataclass

import psycopg

from iot_stores.months import month_begin, next_month
from iot_stores.postgres import Connection
from iot_writer.maintenance.partitions import ensure_partition

FIRST_MONTH = month_begin(1_780_000_000_000)
"""May 2026."""
ASKED = uuid.UUID(int=0x4000_8000_0000_0000_0000)
"""The queried vault. Its clock is behind the clocks of most other vaults."""
STEP = 25_600

_FILL = """
    INSERT INTO segments
    SELECT vault_id, first, first + 256 * 99, at, at + 50,
        at * 1000 + ahead, (at + 50) * 1000 + ahead,
        at * 1000, (at + 50) * 1000, 3, 100, %(payload)s
    FROM (
        SELECT
            (%(vault)s::text || lpad(to_hex(vault), 12, '0'))::uuid AS vault_id,
            %(first)s + number * 25600 AS first,
            %(begin)s + %(length)s::int8 * number / %(segments)s::int8 + vault AS at,
            vault %% 7 * 1000000000000000 AS ahead
        FROM generate_series(0, %(segments)s::int8 - 1) AS number,
            generate_series(%(from)s::int8, %(to)s::int8) AS vault
    ) AS made
    ORDER BY at
"""


@dataclass(frozen=True, slots=True)
class Shape:
    """The size of a history."""

    months: int = 4
    others: int = 20
    """Number of other vaults."""
    others_segments: int = 40
    """Segments of each other vault per month."""
    segments: int = 50
    """Segments of the queried vault per month."""
    payload: int = 200


def fill(connection: Connection, shape: Shape) -> list[int]:
    """Create the history and return the first moments of its months."""
    begins, begin = [], FIRST_MONTH
    for month in range(shape.months):
        ensure_partition(connection, begin)
        values = {
            "vault": str(ASKED)[:-12],
            "first": month * 1_000_000 * STEP,
            "begin": begin,
            "length": next_month(begin) - begin - 1_000_000,
            "payload": b"\1" * shape.payload,
        }
        asked = {"segments": shape.segments, "from": 0, "to": 0}
        others = {"segments": shape.others_segments, "from": 1, "to": shape.others}
        for each in (asked, others):
            connection.execute(_FILL, values | each)
        begins.append(begin)
        begin = next_month(begin)
    return begins


def spread(connection: Connection) -> tuple[int, int]:
    """Return the lowest and the highest relative time of the queried vault."""
    statement = "SELECT min(relative_min), max(relative_max) FROM segments WHERE vault_id = %s"
    low, high = connection.execute(statement, (ASKED,)).fetchone() or (0, 0)
    assert isinstance(low, int)
    assert isinstance(high, int)
    return low, high


def vacuum(postgres_url: str) -> None:
    """Vacuum and analyze, as autovacuum would."""
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE segments")
        connection.execute(
            "SELECT pg_stat_force_next_flush()"
        )  # otherwise these counts are added to the next measurement
        connection.execute("SELECT 1")
