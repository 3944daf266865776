"""Fills, saves and restores the tables of the audit log."""

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from iot_cipher.writer_keys import AuditKeys
from iot_stores.audit import AuditLog
from iot_stores.audit_chain import AuditChain
from iot_writer.maintenance.audit_chainer import AuditChainer
from iot_writer.writer import Writer

TABLES = ("audit_log", "audit_chain", "audit_pending")


def record(writer: Writer, count: int, keys: AuditKeys | None = None) -> None:
    """Add records without chaining them. `keys`: by default those of the writer."""
    log = writer.audit if keys is None else AuditLog(lambda: keys)
    for number in range(count):
        log.record(writer.postgres(), f"event {number}")


def chain(writer: Writer, keys: AuditKeys | None = None) -> int:
    """Run the chainer of a new writer. Return the number of chained records."""
    current = writer.keys.current if keys is None else lambda: keys
    chainer = AuditChainer(AuditChain(current), writer.stores.audit_head)
    return chainer.run(writer.postgres, writer.drop_postgres)


@contextmanager
def unchanged_afterwards(connection: psycopg.Connection) -> Iterator[None]:
    """Give the tables their rows back at the end of the block."""
    for table in TABLES:
        connection.execute(f"CREATE TEMPORARY TABLE saved_{table} AS TABLE public.{table}")
    try:
        yield
    finally:
        with connection.transaction():
            connection.execute("SET LOCAL session_replication_role = replica")  # no trigger
            for table in TABLES:
                connection.execute(f"TRUNCATE public.{table}")
                connection.execute(
                    f"INSERT INTO public.{table} OVERRIDING SYSTEM VALUE TABLE saved_{table}"
                )
        for table in TABLES:
            connection.execute(f"DROP TABLE saved_{table}")
