"""Pages and scans of statements, by table and index, from the statistics of Postgres."""

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
    """The pages and scans between two moments."""

    pages: int = 0
    """Pages of tables and indexes, without TOAST."""
    scanned: set[str] = field(default_factory=set)
    """Tables with a sequential scan; partitions count under their parent."""
    indexes: set[str] = field(default_factory=set)
    """Indexes that were searched; indexes of partitions count under their parent."""
    partitions: set[str] = field(default_factory=set)
    """Tables of which a page or an index page was read."""


@contextmanager
def touching(connection: Connection) -> Iterator[Touched]:
    """Count the pages and scans of a connection. The database must have no other activity."""
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
    # A backend reports its counts when it is idle or when it is asked.
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
