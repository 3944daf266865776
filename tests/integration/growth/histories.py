"""Histories in bulk: rows that no one can decrypt, in months, vaults and numbers as one likes."""

import uuid
from dataclasses import dataclass

import psycopg

from iot_stores.months import month_begin, next_month
from iot_stores.postgres import Connection
from iot_writer.maintenance.partitions import ensure_partition

FIRST_MONTH = month_begin(1_780_000_000_000)
"""May 2026."""
ASKED = uuid.UUID(int=0x4000_8000_0000_0000_0000)
"""The vault that is asked about. Its clock is behind that of most others."""
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
    """How large a history is."""

    months: int = 4
    others: int = 20
    """Vaults besides the one that is asked about."""
    others_segments: int = 40
    """Of each of them, a month."""
    segments: int = 50
    """Of the vault that is asked about, a month."""
    payload: int = 200


def fill(connection: Connection, shape: Shape) -> list[int]:
    """Make the history; the begins of its months."""
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
    """The least and the greatest relative time of the vault that is asked about."""
    statement = "SELECT min(relative_min), max(relative_max) FROM segments WHERE vault_id = %s"
    low, high = connection.execute(statement, (ASKED,)).fetchone() or (0, 0)
    assert isinstance(low, int)
    assert isinstance(high, int)
    return low, high


def vacuum(postgres_url: str) -> None:
    """What autovacuum does sooner or later."""
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE segments")
        connection.execute("SELECT pg_stat_force_next_flush()")  # or it counts as what comes next
        connection.execute("SELECT 1")
