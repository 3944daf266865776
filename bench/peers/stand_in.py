"""The stand-in for the old server, as a side."""

import contextlib
import sqlite3
import sys
from importlib.metadata import version
from pathlib import Path

from bench import readings
from bench.limits import wait_until
from bench.load import Connection, Wire
from bench.peers.side import Peer

SETTLE_SECONDS = 120

RECORDED_SINGLE = 1_430.0
RECORDED_ACKNOWLEDGED = 115_000.0
RECORDED_STORED = 42_000.0
RECORDED_READ = 491_476 / 8.2
RECORDED_BYTES = 178.0
"""What the real old server did on two cores; requests/s, readings/s, bytes a reading."""


class StandIn(Peer):
    """Does the old server's work in the old server's order."""

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
        """A process of this bench."""
        module = "bench.peers.old_server"
        return [sys.executable, "-m", module, str(self._database), str(self.port)]

    def ready(self) -> bool:
        """Whether it listens."""
        with Connection(self.port):
            return True

    def version(self) -> str:
        """Of what it is made of."""
        return f"Flask {version('flask')}, SQLite {sqlite3.sqlite_version}"

    def stored(self) -> int:
        """Rows in its file: they are never deleted, so the last id tells."""
        with contextlib.closing(sqlite3.connect(self._database, timeout=60)) as connection:
            (last,) = connection.execute("SELECT coalesce(max(id), 0) FROM readings").fetchone()
        return int(last)

    def settle(self) -> None:
        """Wait until its file grows no more."""
        seen = -1

        def quiet() -> bool:
            nonlocal seen
            before, seen = seen, self.stored()
            return before == seen

        wait_until(quiet, SETTLE_SECONDS, "the stand-in's queue is empty", interval=0.5)

    def disk_bytes(self) -> int:
        """Of its file alone."""
        return self._database.stat().st_size

    @property
    def _database(self) -> Path:
        return self.folder / "readings.db"


def compared_with_recorded(ratio: float) -> str:
    """A sentence on how far the stand-in is from the real one."""
    if 2 / 3 <= ratio <= 3 / 2:
        return f"It is about as fast ({ratio:.2f} x)."
    if ratio > 1:
        return f"It is much FASTER ({ratio:.2f} x): floors against it are harder than meant."
    return f"It is much SLOWER ({ratio:.2f} x): look at the floors against what was recorded."
