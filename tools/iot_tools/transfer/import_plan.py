"""The plan of an import: which readings of the file the service lacks."""

import sqlite3
from collections.abc import Iterable, Iterator
from typing import cast

_SCHEMA = "CREATE TABLE rows (position INTEGER PRIMARY KEY, digest BLOB, present INTEGER DEFAULT 0)"
_BATCH = 10_000


class ImportPlan:
    """The digests of a file's readings, and which of these readings the service has.

    If the file has a reading twice and the service has it once, the service lacks one. A reading is
    identified by its position in the file, from 0. The plan is a temporary database on disk without
    the readings themselves, so it needs little memory.
    """

    def __init__(self) -> None:
        # An empty name: SQLite uses a temporary file for what its cache can't hold.
        self._database = sqlite3.connect("")
        self._database.execute("PRAGMA cache_size = -32768")
        self._database.execute("PRAGMA journal_mode = OFF")
        self._database.execute(_SCHEMA)

    def close(self) -> None:
        """Delete the temporary database."""
        self._database.close()

    def load(self, rows: Iterable[tuple[int, bytes]]) -> None:
        """Add the readings of the file: `rows` has the position and the digest of each reading."""
        statement = "INSERT INTO rows (position, digest) VALUES (?, ?)"
        self._database.executemany(statement, rows)
        self._database.execute("CREATE INDEX absent ON rows (digest) WHERE NOT present")

    def compare(self, digests: Iterable[bytes]) -> None:
        """Mark the readings that the service has.

        `digests` are the digests of all readings that the service returned.
        """
        self._database.execute("UPDATE rows SET present = 0 WHERE present")
        self._database.executemany(
            "UPDATE rows SET present = 1 WHERE position ="
            " (SELECT min(position) FROM rows WHERE digest = ? AND NOT present)",
            ((digest,) for digest in digests),
        )

    def remove(self, position: int) -> None:
        """Remove a reading that can't be imported, so that it does not count as absent."""
        self._database.execute("DELETE FROM rows WHERE position = ?", (position,))

    def absent(self) -> int:
        """Return how many readings the service lacks."""
        (count,) = self._database.execute("SELECT count(*) FROM rows WHERE NOT present").fetchone()
        return cast("int", count)

    def absent_positions(self) -> Iterator[int]:
        """Yield the positions of the readings that the service lacks, in the order of the file."""
        position = -1
        while found := self._database.execute(
            "SELECT position FROM rows WHERE NOT present AND position > ?"
            " ORDER BY position LIMIT ?",
            (position, _BATCH),
        ).fetchall():
            for (position,) in found:
                yield position
