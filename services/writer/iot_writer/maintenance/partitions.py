"""Monthly partitions of the history, created ahead of time or by the drain that needs one."""

import logging
from typing import cast

import psycopg

from iot_stores.months import month_begin, month_name, next_month, parse_month
from iot_stores.postgres import Connection, transaction

_log = logging.getLogger(__name__)

_PREFIX = "segments_"

_ALL = """
    SELECT relname FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
    WHERE inhparent = 'segments'::regclass
"""
_LOCK = "SELECT pg_advisory_xact_lock(hashtext('segments partitions'))"
_EXISTS = "SELECT 1 FROM pg_class WHERE oid = to_regclass(%s)"


def partition_name(begin: int) -> str:
    """Return the table name of the month that begins at `begin` (Unix milliseconds)."""
    return _PREFIX + month_name(begin)


def partition_begins(connection: Connection) -> list[int]:
    """Return the start of each month that has a partition, the oldest first."""
    found = cast("list[tuple[str]]", connection.execute(_ALL).fetchall())
    return sorted(parse_month(name.removeprefix(_PREFIX)) for (name,) in found)


def ensure_partition(connection: Connection, begin: int) -> bool:
    """Create the partition of the month that begins at `begin` (Unix milliseconds).

    Return whether it was created: False if it exists already.
    """
    name = partition_name(begin)
    if connection.execute(_EXISTS, (name,)).fetchone():
        return False
    table = psycopg.sql.Identifier(name)
    with transaction(connection):
        connection.execute(_LOCK)
        if connection.execute(_EXISTS, (name,)).fetchone():
            return False
        # CREATE TABLE ... PARTITION OF would block reads and wait for them. ATTACH does neither.
        create = "CREATE TABLE {} (LIKE segments INCLUDING DEFAULTS INCLUDING STORAGE)"
        attach = "ALTER TABLE segments ATTACH PARTITION {} FOR VALUES FROM ({}) TO ({})"
        connection.execute(psycopg.sql.SQL(create).format(table))
        connection.execute(
            psycopg.sql.SQL(attach).format(
                table, psycopg.sql.Literal(begin), psycopg.sql.Literal(next_month(begin))
            )
        )
    _log.info("created the partition %s", name)
    return True


MONTHS_AHEAD = 3
"""Number of months, the current one included, whose partitions are created ahead of time."""


def ensure_months_ahead(connection: Connection, now: int) -> int:
    """Create the missing partitions of `MONTHS_AHEAD` months. Return how many were created.

    The first of these months contains `now`: Unix milliseconds by Redis's clock, which stamps
    readings.
    """
    begin, created = month_begin(now), 0
    for _ in range(MONTHS_AHEAD):
        created += ensure_partition(connection, begin)
        begin = next_month(begin)
    return created
