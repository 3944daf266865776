"""The spool of an export: the fetched readings, on disk until the files are written.

A page and the cursor of the next page are committed together, so an export that was killed
continues with the next page. The files are written last, because the columns of a flattened file
are known only after the last reading.
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

from .export_lock import ExportLock

_SCHEMA = """
    CREATE TABLE IF NOT EXISTS readings (
        place INTEGER PRIMARY KEY, id INTEGER, absolute_timestamp TEXT, relative_timestamp INTEGER,
        interrogator_timestamp INTEGER, freeform TEXT
    );
    CREATE TABLE IF NOT EXISTS state (name TEXT PRIMARY KEY, value TEXT)
"""


class ExportSpool:
    """The fetched readings of one export, in a SQLite file that one process at a time can open."""

    def __init__(self, target: Path, selection: Mapping[str, object]) -> None:
        """Open the spool of an export to `target`, or create it.

        `selection` says which readings are exported. It is stored in a new spool, and compared with
        the selection in an existing one.

        Raises:
            IotError: the spool can't be opened, belongs to an export of other readings, or another
                process has it open.
        """
        self.path = target.with_name(f"{target.name}.part")
        try:
            self._lock = ExportLock(target)
        except OSError as error:
            raise IotError(f"{target} can't be written: {error.strerror}") from None
        try:
            self._open(self.path, json.dumps(selection, sort_keys=True))
        except BaseException:
            self._lock.release()
            raise

    def _open(self, path: Path, wanted: str) -> None:
        try:
            # The readings are not encrypted: nobody else may read them.
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
            self._database = sqlite3.connect(path)
            try:
                self._prepare(wanted)
            except BaseException:
                self._database.close()
                raise
        except (OSError, sqlite3.Error) as error:
            reason = getattr(error, "strerror", None) or error
            raise IotError(f"the temporary file {path} can't be opened: {reason}") from None
        self._closed = False

    def _prepare(self, wanted: str) -> None:
        self._database.executescript(_SCHEMA)
        if not len(self):
            # Left by a process that was killed before its first page.
            self._database.execute("DELETE FROM state")
        found = self._state("selection")
        if found not in {None, wanted}:
            raise IotError(
                f"{self.path} belongs to an interrupted export of other readings: run that export "
                "again, or delete the file"
            )
        if self._state("complete") is not None:
            # Of an earlier build, which did not save where the last page begins.
            self._database.execute("DELETE FROM readings")
            self._database.execute("DELETE FROM state")
        self._save("selection", wanted)
        self._database.commit()

    def close(self) -> None:
        """Close the spool. Delete it if it is empty, else keep it on disk for the next run."""
        if self._closed:
            return
        if len(self):
            self._close()
        else:
            self.delete()

    def delete(self) -> None:
        """Delete the file of the spool, and close it."""
        with suppress(FileNotFoundError):
            self.path.unlink()
        self._close()

    def _close(self) -> None:
        self._closed = True
        self._database.close()
        self._lock.release()

    @property
    def cursor(self) -> str | None:
        """The last cursor that the service returned, or None if it has not returned any.

        If the spool is incomplete, the next page begins at this cursor. If the spool is complete,
        its last page began at this cursor: the service returns no cursor with the last page.
        """
        return self._state("cursor")

    @property
    def complete(self) -> bool:
        """Whether all readings were fetched."""
        return self._state("last_page") is not None

    def reopen(self) -> None:
        """Delete the last page of a complete spool, and the names of `save_renames`.

        Readings may have been stored since, so the next fetch begins with the last page again.
        """
        with self._database:
            self._database.execute(
                "DELETE FROM readings WHERE place >"
                " (SELECT CAST(value AS INTEGER) FROM state WHERE name = 'last_page')"
            )
            self._database.execute("DELETE FROM state WHERE name IN ('last_page', 'renames')")

    def append(self, readings: Sequence[Reading], cursor: str | None) -> None:
        """Add a page. `cursor` is where the next page begins; None if this is the last page."""
        before = len(self)
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
            if cursor is None:
                self._save("last_page", str(before))
            else:
                self._save("cursor", cursor)

    def renames(self, form: str) -> dict[Path, Path]:
        """Return the names saved by `save_renames` for the same `form`; empty if none are saved."""
        saved = json.loads(self._state("renames") or "{}")
        return {Path(old): Path(new) for old, new in saved.get(form, {}).items()}

    def save_renames(self, form: str, names: Mapping[Path, Path]) -> None:
        """Save the final name for each temporary name, once all files are complete.

        If the export is killed while it renames the files, the next run renames the remaining
        files. `form` identifies the format and layout of the files.
        """
        with self._database:
            saved = {str(old): str(new) for old, new in names.items()}
            self._save("renames", json.dumps({form: saved}))

    def __len__(self) -> int:
        (count,) = self._database.execute("SELECT coalesce(max(place), 0) FROM readings").fetchone()
        return cast("int", count)

    def readings(self) -> Iterator[Reading]:
        """Yield all readings in the order in which they were added.

        One reading at a time is in memory. The spool must not be changed meanwhile.
        """
        for values in self._database.execute(
            "SELECT absolute_timestamp, freeform, id, interrogator_timestamp, relative_timestamp"
            " FROM readings ORDER BY place"
        ):
            yield Reading(*values)

    def _state(self, name: str) -> str | None:
        row = self._database.execute("SELECT value FROM state WHERE name = ?", (name,)).fetchone()
        return None if row is None else cast("str", row[0])

    def _save(self, name: str, value: str) -> None:
        self._database.execute("INSERT OR REPLACE INTO state VALUES (?, ?)", (name, value))
