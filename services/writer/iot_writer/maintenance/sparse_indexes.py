"""Indexes that compaction has thinned out are built anew.

Of hundreds of small segments one merged one is left, and its place in an index keeps a page that
held all of theirs: Postgres frees empty pages only. Such an index is rebuilt beside the old one,
which holds up neither drains nor reads, but waits until all reads that have begun are over:
hence a thread, and a connection of its own.
"""

import logging
import threading
from collections.abc import Callable
from typing import cast

import psycopg

from iot_stores.postgres import Connection

SPARSE_FROM_BYTES = 2**20
"""A smaller index may be as sparse as it likes."""
ENTRY_BYTES = 64
"""What an entry takes, at most, in an index just built."""
SPARSE_RATIO = 4

_SPARSE = """
    SELECT indexes.oid::regclass::text
    FROM pg_inherits JOIN pg_index ON indrelid = inhrelid
    JOIN pg_class AS indexes ON indexes.oid = indexrelid
    WHERE inhparent = 'segments'::regclass AND indisvalid AND reltuples >= 0
        AND relpages * 8192::float8
            > greatest(%(least)s, %(ratio)s * %(entry)s * reltuples)
"""
# One that was being rebuilt when the server, or the connection, broke off.
_LEFT_BEHIND = """
    SELECT indexrelid::regclass::text FROM pg_inherits JOIN pg_index ON indrelid = inhrelid
    WHERE inhparent = 'segments'::regclass AND NOT indisvalid
        AND NOT EXISTS (SELECT FROM pg_stat_progress_create_index)
"""

_log = logging.getLogger(__name__)


def rebuild_sparse(connection: Connection) -> int:
    """Rebuild every sparse index of the history, one after the other; how many there were.

    May be broken off at any point, and then leaves an index that the next call drops.
    """
    for name in _names(connection, _LEFT_BEHIND):
        connection.execute(f"DROP INDEX CONCURRENTLY {name}")
    sparse = _names(connection, _SPARSE)
    for name in sparse:
        # Quoted where it must be, for it comes from the catalog as a regclass.
        connection.execute(f"REINDEX INDEX CONCURRENTLY {name}")
        _log.info("rebuilt the index %s", name)
    return len(sparse)


def _names(connection: Connection, statement: str) -> list[str]:
    values = {"least": SPARSE_FROM_BYTES, "ratio": SPARSE_RATIO, "entry": ENTRY_BYTES}
    rows = connection.execute(statement, values)
    return [name for (name,) in cast("list[tuple[str]]", rows.fetchall())]


class SparseIndexes:
    """Rebuilds in the background, once at a time."""

    def __init__(self, connect: Callable[[], Connection]) -> None:
        self._connect = connect
        self._thread: threading.Thread | None = None

    def begin(self) -> bool:
        """Begin to rebuild what is sparse; False while it still goes on."""
        if self._thread is not None and self._thread.is_alive():
            return False
        self._thread = threading.Thread(target=self._run, name="sparse indexes", daemon=True)
        self._thread.start()
        return True

    def wait(self, seconds: float) -> None:
        """Wait until it is done, for so long at most."""
        if self._thread is not None:
            self._thread.join(seconds)

    def _run(self) -> None:
        try:
            with self._connect() as connection:
                rebuild_sparse(connection)
        except psycopg.Error as error:
            _log.warning("sparse indexes are not rebuilt: %s", str(error).partition("\n")[0])
