"""What statements touch: Postgres's own counts of pages and scans, by table and index."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import cast

from iot_stores.postgres import Connection

_NAMES = """
    SELECT part.relname, coalesce(whole.relname, part.relname)
    FROM pg_class AS part LEFT JOIN pg_inherits ON inhrelid = part.oid
    LEFT JOIN pg_class AS whole ON whole.oid = inhparent
    WHERE part.relnamespace = 'public'::regnamespace
"""
_TABLES = """
    SELECT relname, coalesce(seq_scan, 0), heap_blks_hit + heap_blks_read
    FROM pg_stat_user_tables JOIN pg_statio_user_tables USING (relid, relname)
"""
_INDEXES = """
    SELECT relname, indexrelname, idx_scan, idx_blks_hit + idx_blks_read
    FROM pg_stat_user_indexes JOIN pg_statio_user_indexes USING (indexrelid, relname, indexrelname)
"""


@dataclass(slots=True)
class Touched:
    """What was touched between two moments."""

    pages: int = 0
    """Of tables and indexes; not of payloads that are stored apart (TOAST)."""
    scanned: set[str] = field(default_factory=set)
    """Tables of which all was read, partitions by the name of the whole."""
    indexes: set[str] = field(default_factory=set)
    """Indexes that were searched, those of partitions by the name of the whole."""
    partitions: set[str] = field(default_factory=set)
    """Tables of which anything was read, also of their indexes."""


@contextmanager
def touching(connection: Connection) -> Iterator[Touched]:
    """Count what a connection touches within. Nothing else may be at work in its database."""
    touched = Touched()
    before = _counts(connection)
    yield touched
    after = _counts(connection)
    wholes = dict(cast("list[tuple[str, str]]", connection.execute(_NAMES).fetchall()))
    for (kind, table, name), number in (after - before).items():
        if kind == "pages":
            touched.pages += number
            touched.partitions.add(table)
        elif kind == "scan":
            touched.scanned.add(wholes[table])
        else:
            touched.indexes.add(_index(wholes, name))


def _index(wholes: dict[str, str], name: str) -> str:
    whole = wholes[name]
    return "primary key" if whole.endswith("_pkey") else whole


def _counts(connection: Connection) -> Counter[tuple[str, str, str]]:
    # Each backend hands its counts in when it is idle for a while, or now.
    connection.execute("SELECT pg_stat_force_next_flush()")
    connection.execute("SELECT pg_stat_clear_snapshot()")
    counts: Counter[tuple[str, str, str]] = Counter()
    tables = cast("list[tuple[str, int, int]]", connection.execute(_TABLES).fetchall())
    for table, scans, pages in tables:
        counts["scan", table, table] = scans
        counts["pages", table, table] = pages
    indexes = cast("list[tuple[str, str, int, int]]", connection.execute(_INDEXES).fetchall())
    for table, index, scans, pages in indexes:
        counts["search", table, index] = scans
        counts["pages", table, index] = pages
    return counts
