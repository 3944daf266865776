"""Retention: deletes old readings, and sessions that the ledger no longer needs."""

import logging
from collections.abc import Callable
from typing import LiteralString, cast

import psycopg

from iot_models.audit_event import AuditKind, audit_event
from iot_stores import ledger
from iot_stores.audit import AuditLog
from iot_stores.clocks import earliest_now
from iot_stores.months import DAY_MS, next_month
from iot_stores.postgres import Connection, transaction

from .partitions import partition_begins, partition_name

SESSION_DAYS = 90
"""Days after which the ledger forgets an idle session: more than the maximum age of an entry."""

_log = logging.getLogger(__name__)

_LOCK_WAIT = "SET LOCAL lock_timeout = '1s'"
_LOCK_MONTH: LiteralString = "LOCK TABLE ONLY {table} IN SHARE MODE"
_COUNT: LiteralString = "SELECT count(*) FROM {table}"
_LOCK_ALL: LiteralString = "LOCK TABLE ONLY segments, {table}"
_DROP: LiteralString = "DROP TABLE {table}"
# `+ 0` makes the planner use the index over `received_min`, which is a few kB. Without it, the
# planner scans the whole index over vaults and `received_max`.
_DELETE: LiteralString = """
    DELETE FROM ONLY {table} WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM ONLY {table}
        WHERE received_min < %(cutoff)s AND received_max + 0 < %(cutoff)s LIMIT 10000
    ))
"""


def enforce(connection: Connection, audit: AuditLog, *, days: int, redis_now: int) -> int:
    """Delete segments whose readings were all received more than `days` days ago.

    Return their number. With 0 days, no segment is ever deleted. Each transaction records its
    deletions in the audit log, so the call may be interrupted and repeated. Even with 0 days, the
    ledger forgets idle sessions.

    `redis_now` is the time in Unix milliseconds by Redis's clock. Three clocks are compared: those
    of Redis, of Postgres and of this process. The earliest time is used, so a clock that is ahead
    deletes nothing early.
    """
    now = earliest_now(redis_now, connection)
    ledger.forget_sessions(connection, now - SESSION_DAYS * DAY_MS)
    if not days:
        return 0
    cutoff = now - days * DAY_MS

    def account(deleted: int) -> None:
        audit.record(
            connection,
            audit_event(AuditKind.SEGMENTS_EXPIRED, segments=deleted, days=days),
        )
        _log.info("retention deleted %d segments received more than %d days ago", deleted, days)

    return _drop_months(connection, cutoff, account) + _delete_rows(connection, cutoff, account)


Account = Callable[[int], None]
"""Records in the audit log how many segments the current transaction has deleted."""


def _drop_months(connection: Connection, cutoff: int, account: Account) -> int:
    """Drop the partitions of months that ended before `cutoff`. Return how many segments they had.

    Stop at a partition that reads keep locked for more than 1 s: while this call waits for the
    lock, all new reads wait, too. `_delete_rows` then deletes the rows, and a later call drops the
    partition.
    """
    deleted = 0
    for begin in partition_begins(connection):
        if next_month(begin) > cutoff:
            break
        try:
            deleted += _drop(connection, partition_name(begin), account)
        except psycopg.errors.LockNotAvailable:
            _log.info("partition %s is being read; a later run will drop it", partition_name(begin))
            break
    return deleted


def _drop(connection: Connection, name: str, account: Account) -> int:
    with transaction(connection):
        connection.execute(_LOCK_WAIT)
        # This lock blocks only inserts into this month, and no writer has readings that old.
        connection.execute(_of(_LOCK_MONTH, name))
        (rows,) = cast("tuple[int]", connection.execute(_of(_COUNT, name)).fetchone())
        connection.execute(_of(_LOCK_ALL, name))
        connection.execute(_of(_DROP, name))
        if rows:
            account(rows)
    return rows


def _delete_rows(connection: Connection, cutoff: int, account: Account) -> int:
    deleted = 0
    for begin in partition_begins(connection):
        if begin < cutoff:
            while rows := _delete_page(connection, partition_name(begin), cutoff, account):
                deleted += rows
    return deleted


def _delete_page(connection: Connection, name: str, cutoff: int, account: Account) -> int:
    with transaction(connection):
        rows = connection.execute(_of(_DELETE, name), {"cutoff": cutoff}).rowcount
        if rows:
            account(rows)
    return rows


def _of(statement: LiteralString, name: str) -> psycopg.sql.Composed:
    return psycopg.sql.SQL(statement).format(table=psycopg.sql.Identifier(name))
