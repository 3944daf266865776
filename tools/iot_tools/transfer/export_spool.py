"""The spool of an export: readings that were fetched, on disk, until the files are written.

Each page is committed together with the cursor behind it, so an export that was killed continues
with the next page. The columns of a flattened file are known only after the last reading.
"""

import json
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import cast

from iot_models.errors import IotError
from iot_models.reading import Reading

_SCHEMA = """
    CREATE TABLE IF NOT EXISTS readings (
        place INTEGER PRIMARY KEY, id INTEGER, absolute_timestamp TEXT, relative_timestamp INTEGER,
        interrogator_timestamp INTEGER, freeform TEXT
    );
    CREATE TABLE IF NOT EXISTS state (name TEXT PRIMARY KEY, value TEXT)
"""
_PAGE = 2_000


class ExportSpool:
    """The readings of one export."""

    def __init__(self, path: Path, selection: Mapping[str, object]) -> None:
        """Open the spool, or create it. `selection` tells what is exported.

        Raises:
            IotError: the file can't be used, or belongs to another export.
        """
        self.path = path
        wanted = json.dumps(selection, sort_keys=True)
        try:
            # The readings are not encrypted: nobody else may read them.
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
            self._database = sqlite3.connect(path)
            self._database.executescript(_SCHEMA)
        except (OSError, sqlite3.Error) as error:
            reason = getattr(error, "strerror", None) or error
            raise IotError(f"the spool {path} can't be opened: {reason}") from None
        found = self._state("selection")
        if found not in {None, wanted}:
            raise IotError(
                f"{path} belongs to an interrupted export of other readings: continue that one, or "
                "delete the file"
            )
        self._save("selection", wanted)
        self._database.commit()

    def close(self) -> None:
        """Close the spool. It stays on disk."""
        self._database.close()

    def delete(self) -> None:
        """Delete the spool."""
        self.close()
        with suppress(FileNotFoundError):
            self.path.unlink()

    @property
    def cursor(self) -> str | None:
        """Where the next page begins; None at the begin."""
        return self._state("cursor")

    @property
    def complete(self) -> bool:
        """Whether all readings were fetched."""
        return self._state("complete") is not None

    def append(self, readings: Sequence[Reading], cursor: str | None) -> None:
        """Add a page. `cursor` is where the next one begins; None: this was the last one."""
        with self._database:
            self._database.executemany(
                "INSERT INTO readings (id, absolute_timestamp, relative_timestamp,"
                " interrogator_timestamp, freeform) VALUES (?, ?, ?, ?, ?)",
                (
                    (
                        each.id, each.absolute_timestamp, each.relative_timestamp,
                        each.interrogator_timestamp, each.freeform,
                    )
                    for each in readings
                ),
            )  # fmt: skip
            self._save("complete" if cursor is None else "cursor", cursor or "yes")

    def __len__(self) -> int:
        (count,) = self._database.execute("SELECT coalesce(max(place), 0) FROM readings").fetchone()
        return cast("int", count)

    def readings(self) -> Iterator[Reading]:
        """Yield all readings in the order of the service."""
        place = 0
        while rows := self._database.execute(
            "SELECT absolute_timestamp, freeform, id, interrogator_timestamp, relative_timestamp,"
            " place FROM readings WHERE place > ? ORDER BY place LIMIT ?",
            (place, _PAGE),
        ).fetchall():
            for *values, place in rows:  # noqa: B007 -- the last place, for the next page
                yield Reading(*values)

    def _state(self, name: str) -> str | None:
        row = self._database.execute("SELECT value FROM state WHERE name = ?", (name,)).fetchone()
        return None if row is None else cast("str", row[0])

    def _save(self, name: str, value: str) -> None:
        self._database.execute("INSERT OR REPLACE INTO state VALUES (?, ?)", (name, value))
