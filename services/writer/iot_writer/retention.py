"""Retention: deletes readings older than they may be, and what else grows without end."""

import logging
import time

import psycopg

from iot_stores.audit import AuditLog
from iot_stores.months import month_begin, next_month
from iot_stores.postgres import Connection

from .partitions import partition_name

DAY_MS = 86_400_000
SESSION_DAYS = 90
"""How long the ledger remembers a session that sends nothing; longer than an entry may be old."""

_log = logging.getLogger(__name__)

_OLDEST = "SELECT min(received_min) FROM segments"
_DELETE = """
    DELETE FROM segments WHERE (vault_id, first_id, received_min) IN (
        SELECT vault_id, first_id, received_min FROM segments
        WHERE received_min < %(cutoff)s AND received_max < %(cutoff)s LIMIT 10000
    )
"""
_FORGET_SESSIONS = "DELETE FROM ingest_sessions WHERE seen_at < now() - %s * interval '1 day'"


def enforce(connection: Connection, audit: AuditLog, *, days: int) -> int:
    """Delete segments whose every reading was received more than `days` ago; how many went.

    Whole months go as partitions. May stop at any point and be repeated. 0 days deletes nothing.
    """
    connection.execute(_FORGET_SESSIONS, (SESSION_DAYS,))
    if not days:
        return 0
    cutoff = int(time.time() * 1000) - days * DAY_MS
    deleted = _drop_months(connection, cutoff) + _delete_rows(connection, cutoff)
    if deleted:
        line = f"retention deleted {deleted} segments received more than {days} days ago"
        _log.info(line)
        audit.record(connection, line)
    return deleted


def _drop_months(connection: Connection, cutoff: int) -> int:
    deleted = 0
    while (oldest := _oldest(connection)) is not None:
        month = month_begin(oldest)
        if next_month(month) > cutoff:
            break
        table = psycopg.sql.Identifier(partition_name(month))
        with connection.transaction():
            connection.execute("SET LOCAL lock_timeout = '5s'")
            count = psycopg.sql.SQL("SELECT count(*) FROM {}").format(table)
            (rows,) = connection.execute(count).fetchone() or (0,)
            connection.execute(psycopg.sql.SQL("DROP TABLE {}").format(table))
        deleted += int(str(rows))
    return deleted


def _delete_rows(connection: Connection, cutoff: int) -> int:
    deleted = 0
    while gone := connection.execute(_DELETE, {"cutoff": cutoff}).rowcount:
        deleted += gone
    return deleted


def _oldest(connection: Connection) -> int | None:
    (oldest,) = connection.execute(_OLDEST).fetchone() or (None,)
    return None if oldest is None else int(str(oldest))
