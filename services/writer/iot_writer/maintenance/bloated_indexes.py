"""Rebuilds indexes that compaction has left bloated.

Compaction replaces hundreds of small segments by one. An index page then keeps one of hundreds of
entries, and Postgres frees only empty pages. REINDEX CONCURRENTLY blocks neither drains nor reads.
It waits for the end of all running reads, so it runs in a thread with its own connection.
"""

import logging
import threading
from collections.abc import Callable
from typing import cast

import psycopg

from iot_stores.postgres import Connection

MIN_BLOATED_BYTES = 2**20
"""Size in bytes below which an index is never rebuilt."""
ENTRY_BYTES = 64
"""Upper bound of the size of an index entry, in bytes. A new index is estimated to have this size
for each row of the table."""
BLOAT_RATIO = 4
"""An index is bloated if it is more than this many times as large as the estimate for a new one."""

_BLOATED = """
    SELECT indexes.oid::regclass::text
    FROM pg_inherits JOIN pg_index ON indrelid = inhrelid
    JOIN pg_class AS indexes ON indexes.oid = indexrelid
    WHERE inhparent = 'segments'::regclass AND indisvalid AND reltuples >= 0
        AND relpages * 8192::float8
            > greatest(%(least)s, %(ratio)s * %(entry)s * reltuples)
"""
# Indexes whose rebuild ended early, because the server stopped or the connection broke.
_INTERRUPTED = """
    SELECT indexrelid::regclass::text FROM pg_inherits JOIN pg_index ON indrelid = inhrelid
    WHERE inhparent = 'segments'::regclass AND NOT indisvalid
        AND NOT EXISTS (SELECT FROM pg_stat_progress_create_index)
"""

_log = logging.getLogger(__name__)


def rebuild_bloated(connection: Connection) -> int:
    """Rebuild all bloated indexes of the history, one after the other. Return how many.

    An interrupted call leaves an invalid index, which the next call drops.
    """
    for name in _names(connection, _INTERRUPTED):
        connection.execute(f"DROP INDEX CONCURRENTLY {name}")
    bloated = _names(connection, _BLOATED)
    for name in bloated:
        # The catalog returns the name as a regclass, quoted where needed.
        connection.execute(f"REINDEX INDEX CONCURRENTLY {name}")
        _log.info("rebuilt the index %s", name)
    return len(bloated)


def _names(connection: Connection, statement: str) -> list[str]:
    values = {"least": MIN_BLOATED_BYTES, "ratio": BLOAT_RATIO, "entry": ENTRY_BYTES}
    rows = connection.execute(statement, values)
    return [name for (name,) in cast("list[tuple[str]]", rows.fetchall())]


class BloatedIndexes:
    """A background thread that rebuilds bloated indexes, one run at a time."""

    def __init__(self, connect: Callable[[], Connection]) -> None:
        self._connect = connect
        self._thread: threading.Thread | None = None

    def start(self) -> bool:
        """Start a run, unless a run is in progress. Return whether a run was started."""
        if self._thread is not None and self._thread.is_alive():
            return False
        self._thread = threading.Thread(target=self._run, name="bloated indexes", daemon=True)
        self._thread.start()
        return True

    def wait(self, seconds: float) -> None:
        """Wait for the end of the run, for `seconds` at most."""
        if self._thread is not None:
            self._thread.join(seconds)

    def _run(self) -> None:
        try:
            with self._connect() as connection:
                rebuild_bloated(connection)
        except psycopg.Error as error:
            _log.warning("bloated indexes are not rebuilt: %s", str(error).partition("\n")[0])
