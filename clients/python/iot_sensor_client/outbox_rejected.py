"""The readings in the file of an outbox that were set aside.

They stay in the table `readings`, because a full disk has no room for a second copy of them. The
outbox sets aside only its oldest batch. So the ids of these readings are lower than the ids of all
readings that wait.
"""

import json
import sqlite3
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, cast

ROW_BYTES = 32
"""Bytes that a reading takes in the file in addition to its text, even if it is set aside."""
_JOINED_SECONDS = 60
"""Batches that are set aside for the same reason within this time share a row of `rejections`."""
REJECTED_TABLES = """
CREATE TABLE reasons (id INTEGER PRIMARY KEY, reason TEXT NOT NULL);
CREATE TABLE rejections (
    last INTEGER PRIMARY KEY, first INTEGER NOT NULL, reason INTEGER NOT NULL, at INTEGER NOT NULL
);
"""
_LAST = "(SELECT coalesce(max(last), 0) FROM rejections)"
WAITING = f"readings WHERE id > {_LAST}"
REJECTED = f"readings WHERE id <= {_LAST}"


@dataclass(frozen=True, slots=True)
class RejectedReading:
    """A reading that was set aside: the outbox does not send it again by itself."""

    id: int
    text: str
    """The reading as JSON."""
    reason: str
    at: datetime
    """When the reading was set aside, or up to a minute earlier."""

    @property
    def reading(self) -> dict[str, Any]:
        """Return the reading. Raises `RecursionError` if it is nested too deeply for the caller's
        stack.
        """
        return cast("dict[str, Any]", json.loads(self.text))


class RejectedRows:
    """The tables `reasons` and `rejections`. The caller runs the transactions."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._run = database.execute

    def add(self, first: int, last: int, reason: str) -> int:
        """Set the readings of the oldest batch aside, without writing them again.

        Return the bytes that this adds to `reason_bytes`.
        """
        now = int(time.time())
        added_bytes = 0
        found = self._run("SELECT id FROM reasons WHERE reason = ?", (reason,)).fetchone()
        if found is None:
            added = self._run("INSERT INTO reasons (reason) VALUES (?)", (reason,))
            found = (added.lastrowid,)
            added_bytes = len(reason) + ROW_BYTES
        joined = self._run(
            "UPDATE rejections SET last = ? WHERE last = (SELECT max(last) FROM rejections)"
            " AND reason = ? AND at BETWEEN ? AND ?",
            (last, *found, now - _JOINED_SECONDS, now),
        )
        if not joined.rowcount:
            self._run("INSERT INTO rejections VALUES (?, ?, ?, ?)", (last, first, *found, now))
        return added_bytes

    def readings(self) -> list[RejectedReading]:
        """Return the readings, oldest first."""
        query = (
            "SELECT readings.id, body, reasons.reason, at FROM rejections"
            " CROSS JOIN readings ON readings.id BETWEEN first AND last"  # fixes the order of loops
            " CROSS JOIN reasons ON reasons.id = rejections.reason ORDER BY last, readings.id"
        )
        return [
            RejectedReading(number, text, reason, datetime.fromtimestamp(at, UTC))
            for number, text, reason, at in self._run(query)
        ]

    def delete(self, reading: int) -> list[str]:
        """Delete a reading. Return its text in a list, which is empty if there is no such reading.

        Call `delete_unused` after the last reading.
        """
        rows = f"{REJECTED} AND id = ?"
        found = self._run(f"SELECT body FROM {rows}", (reading,)).fetchall()  # noqa: S608 -- constants
        self._run(f"DELETE FROM {rows}", (reading,))  # noqa: S608 -- constants
        self._run(
            "DELETE FROM rejections WHERE last = (SELECT min(last) FROM rejections WHERE last >= ?)"
            " AND NOT EXISTS (SELECT * FROM readings WHERE id BETWEEN first AND last)",
            (reading,),
        )
        return [body for (body,) in found]

    def delete_unused(self) -> int:
        """Delete reasons without readings. This reads all ranges.

        Return the bytes that this removes from `reason_bytes`.
        """
        unused = "reasons WHERE id NOT IN (SELECT reason FROM rejections)"
        removed_bytes = self._bytes_of(unused)
        self._run(f"DELETE FROM {unused}")  # noqa: S608 -- constants
        return removed_bytes

    def reason_bytes(self) -> int:
        """Return the bytes that the reasons take in the file."""
        return self._bytes_of("reasons")

    def _bytes_of(self, reasons: str) -> int:
        size = f"coalesce(sum(length(reason) + {ROW_BYTES}), 0)"
        return int(self._run(f"SELECT {size} FROM {reasons}").fetchone()[0])  # noqa: S608 -- constants
