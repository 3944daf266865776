"""Monthly partitions of the history: made ahead, and in time for whatever a drain brings."""

import logging
from typing import cast

import psycopg

from iot_stores.months import month_begin, month_name, next_month, parse_month
from iot_stores.postgres import Connection

_log = logging.getLogger(__name__)

_PREFIX = "segments_"

_ALL = """
    SELECT relname FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
    WHERE inhparent = 'segments'::regclass
"""
_LOCK = "SELECT pg_advisory_xact_lock(hashtext('segments partitions'))"
_EXISTS = "SELECT 1 FROM pg_class WHERE oid = to_regclass(%s)"


def partition_name(begin: int) -> str:
    """The table of the month that begins at `begin` (Unix milliseconds)."""
    return _PREFIX + month_name(begin)


def partition_begins(connection: Connection) -> list[int]:
    """The begins of the months that have a partition, the oldest first."""
    found = cast("list[tuple[str]]", connection.execute(_ALL).fetchall())
    return sorted(parse_month(name.removeprefix(_PREFIX)) for (name,) in found)


def ensure_partition(connection: Connection, begin: int) -> bool:
    """Make the partition of a month unless it is there; True if it was made.

    Built aside and then attached, which waits for no read and holds up none.
    """
    name = partition_name(begin)
    if connection.execute(_EXISTS, (name,)).fetchone():
        return False
    table = psycopg.sql.Identifier(name)
    with connection.transaction():
        connection.execute(_LOCK)
        if connection.execute(_EXISTS, (name,)).fetchone():
            return False
        create = "CREATE TABLE {} (LIKE segments INCLUDING DEFAULTS INCLUDING STORAGE)"
        attach = "ALTER TABLE segments ATTACH PARTITION {} FOR VALUES FROM ({}) TO ({})"
        connection.execute(psycopg.sql.SQL(create).format(table))
        connection.execute(
            psycopg.sql.SQL(attach).format(
                table, psycopg.sql.Literal(begin), psycopg.sql.Literal(next_month(begin))
            )
        )
    _log.info("made the partition %s", name)
    return True


MONTHS_AHEAD = 3


def ensure_months_ahead(connection: Connection, now: int) -> int:
    """Make the partitions of this month and the next ones; how many were made.

    `now` is the time in Unix milliseconds, by the clock that stamps readings.
    """
    begin, made = month_begin(now), 0
    for _ in range(MONTHS_AHEAD):
        made += ensure_partition(connection, begin)
        begin = next_month(begin)
    return made
