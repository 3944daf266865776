"""Retention: deletes readings older than they may be, and what else grows without end."""

import logging
from collections.abc import Callable
from typing import LiteralString, cast

import psycopg

from iot_stores import ledger
from iot_stores.audit import AuditLog
from iot_stores.clocks import earliest_now
from iot_stores.months import DAY_MS, next_month
from iot_stores.postgres import Connection

from .partitions import partition_begins, partition_name

SESSION_DAYS = 90
"""How long the ledger remembers a session that sends nothing; longer than an entry may be old."""

_log = logging.getLogger(__name__)

_LOCK_WAIT = "SET LOCAL lock_timeout = '1s'"
_LOCK_MONTH: LiteralString = "LOCK TABLE ONLY {table} IN SHARE MODE"
_COUNT: LiteralString = "SELECT count(*) FROM {table}"
_LOCK_ALL: LiteralString = "LOCK TABLE ONLY segments, {table}"
_DROP: LiteralString = "DROP TABLE {table}"
# By the index over `received_min`, which is a few kB: `+ 0` keeps the planner from the one over
# vaults and `received_max`, all of which it would go through.
_DELETE: LiteralString = """
    DELETE FROM ONLY {table} WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM ONLY {table}
        WHERE received_min < %(cutoff)s AND received_max + 0 < %(cutoff)s LIMIT 10000
    ))
"""


def enforce(connection: Connection, audit: AuditLog, *, days: int, redis_now: int) -> int:
    """Delete segments whose every reading was received more than `days` ago; how many went.

    Whole months go as partitions. May stop at any point and be repeated: what went is in the audit
    log by then, a line for each transaction. 0 days deletes nothing. `redis_now` is the time by
    Redis's clock: a clock that is ahead of others deletes nothing early (`earliest_now`).
    """
    now = earliest_now(redis_now, connection)
    ledger.forget_sessions(connection, now - SESSION_DAYS * DAY_MS)
    if not days:
        return 0
    cutoff = now - days * DAY_MS

    def account(deleted: int) -> None:
        line = f"retention deleted {deleted} segments received more than {days} days ago"
        audit.record(connection, line)
        _log.info(line)

    return _drop_months(connection, cutoff, account) + _delete_rows(connection, cutoff, account)


Account = Callable[[int], None]
"""Writes down how many segments the transaction that runs has deleted."""


def _drop_months(connection: Connection, cutoff: int, account: Account) -> int:
    """Drop the months that ended before `cutoff`. One that is being read is left alone: to wait
    for its reader would hold up everybody else. Its rows are deleted, and it goes another time.
    """
    deleted = 0
    for begin in partition_begins(connection):
        if next_month(begin) > cutoff:
            break
        try:
            deleted += _drop(connection, partition_name(begin), account)
        except psycopg.errors.LockNotAvailable:
            _log.info("%s is being read, it is dropped another time", partition_name(begin))
            break
    return deleted


def _drop(connection: Connection, name: str, account: Account) -> int:
    """Counted under a lock that holds up only who would write to this month: nobody."""
    with connection.transaction():
        connection.execute(_LOCK_WAIT)
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
            while gone := _delete_some(connection, partition_name(begin), cutoff, account):
                deleted += gone
    return deleted


def _delete_some(connection: Connection, name: str, cutoff: int, account: Account) -> int:
    with connection.transaction():
        gone = connection.execute(_of(_DELETE, name), {"cutoff": cutoff}).rowcount
        if gone:
            account(gone)
    return gone


def _of(statement: LiteralString, name: str) -> psycopg.sql.Composed:
    return psycopg.sql.SQL(statement).format(table=psycopg.sql.Identifier(name))
