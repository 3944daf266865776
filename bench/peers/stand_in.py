"""The side that runs the stand-in for the old server."""

import contextlib
import sqlite3
import sys
from importlib.metadata import version
from pathlib import Path

from bench import readings
from bench.limits import wait_until
from bench.load import Connection, Wire
from bench.peers.side import HTTPPeer

SETTLE_SECONDS = 120

# Figures of the real old server on two cores.
RECORDED_SINGLE = 1_430.0
"""Requests/s of the old server, with one reading each."""
RECORDED_ACKNOWLEDGED = 115_000.0
"""Readings/s in batches that the old server acknowledges."""
RECORDED_STORED = 42_000.0
"""Readings/s in batches that the old server stores."""
RECORDED_READ = 491_476 / 8.2
"""Readings/s that the old server returns in a read."""
RECORDED_BYTES = 178.0
"""Bytes on disk of the old server, per reading."""


class StandIn(HTTPPeer):
    """Does the work of the old server in the same order."""

    name = "old server's stand-in"
    stores_later = True
    durability = (
        "acknowledged = in a queue in memory; stored = committed to SQLite (rollback journal, "
        "synchronous=FULL); encrypted row by row, not authenticated"
    )
    settings = "Flask's own threaded server, one process, its request log on; no TLS"
    wire = Wire("PUT", "/api/iot", "application/json", 201,
                readings.json_readings, readings.json_reading)  # fmt: skip

    def command(self) -> list[str]:
        """Return the command of the stand-in."""
        module = "bench.peers.old_server"
        return [sys.executable, "-m", module, str(self._database), str(self.port)]

    def ready(self) -> bool:
        """Return whether the server listens."""
        with Connection(self.port):
            return True

    def version(self) -> str:
        """Return the versions of Flask and SQLite."""
        return f"Flask {version('flask')}, SQLite {sqlite3.sqlite_version}"

    def stored(self) -> int:
        """Return the last id of the table, which is the number of rows: no row is ever deleted."""
        with contextlib.closing(sqlite3.connect(self._database, timeout=60)) as connection:
            (last,) = connection.execute("SELECT coalesce(max(id), 0) FROM readings").fetchone()
        return int(last)

    def settle(self) -> None:
        """Wait until the table stops growing."""
        seen = -1

        def quiet() -> bool:
            nonlocal seen
            before, seen = seen, self.stored()
            return before == seen

        wait_until(quiet, SETTLE_SECONDS, "the stand-in's queue is empty", interval=0.5)

    def disk_bytes(self) -> int:
        """Return the bytes of the SQLite file."""
        return self._database.stat().st_size

    @property
    def _database(self) -> Path:
        return self.folder / "readings.db"


def compared_with_recorded(ratio: float) -> str:
    """Return a sentence that compares the stand-in with the real old server.

    `ratio` is a figure of the stand-in divided by the recorded figure of the old server.
    """
    if 2 / 3 <= ratio <= 3 / 2:
        return f"It is about as fast ({ratio:.2f} x)."
    if ratio > 1:
        return f"It is much FASTER ({ratio:.2f} x): floors from recorded figures are too weak."
    return f"It is much SLOWER ({ratio:.2f} x): floors from recorded figures are too strict."
