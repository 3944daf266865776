"""The space that the file of an outbox takes on the disk."""

import os
import shutil
import sqlite3
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from .errors import OutboxFullError

if sys.platform != "win32":
    import fcntl

RESERVE_BYTES = 2 * 1024 * 1024
"""Space that a full outbox leaves on the disk, because removing readings needs some space."""
WAL_BYTES = 512 * 1024
"""Space that the WAL keeps after a checkpoint, which comes after 100 pages (400 KiB)."""
_PLENTY = 8
"""If this many times `RESERVE_BYTES` are free on the disk, an outbox adds readings without making
room: the space is enough, even if several outboxes add readings at the same time."""
_KEPT_PAGES = 256
"""Free pages that the file keeps for new readings (1 MiB)."""
_VACUUM_PAGES = 2048
"""VACUUM runs only if at most this many pages are in use: it copies them in memory (8 MiB)."""
_LOCK_ATTEMPTS = 100
_LOCK_PAUSE_SECONDS = 0.01


@dataclass(frozen=True, slots=True)
class _Pages:
    """Bytes of one page of the database, and numbers of used and free pages.

    Removing readings turns used pages into free ones.
    """

    size: int
    used: int
    free: int


class OutboxSpace:
    """Keeps some space on the disk free, which SQLite needs to remove readings. Returns the space
    of removed readings to the disk.

    SQLite itself keeps the pages of deleted rows. With SQLite alone, an outbox that has filled its
    disk would stay full after all its readings are acknowledged.
    """

    def __init__(self, path: Path, database: sqlite3.Connection) -> None:
        self._path = path
        self._database = database

    def wal_room(self) -> int:
        """Return how many bytes a transaction that does not use `room_for` may add to the WAL."""
        return max(WAL_BYTES, self._disk_free() - _PLENTY * RESERVE_BYTES)

    @contextmanager
    def room_for(self, added: int) -> Iterator[None]:
        """Make room on the disk for the enclosed transaction, which adds `added` bytes.

        Raises:
            OutboxFullError: there is no room on the disk.
        """
        # Readings are written twice: to the WAL, and from there to the database.
        if self._disk_free() >= _PLENTY * RESERVE_BYTES + 2 * added:
            yield
            return
        with self._locked_folder():
            self._make_room(2 * added)
            yield
            # This lets the file grow now, while there is room. A later removal then needs space for
            # the WAL only, and the WAL keeps up to `WAL_BYTES` at a checkpoint.
            self.checkpoint()

    def _make_room(self, needed: int) -> None:
        self.shrink(kept_pages=0, free_per_used=1)
        pages, disk, wal = self._pages(), self._disk_free(), self._wal_bytes()
        needed_on_disk = RESERVE_BYTES + needed - pages.free * pages.size
        # Readings that fit into free pages need space of the disk for the WAL only.
        if disk + wal < max(needed_on_disk, WAL_BYTES + needed // 2):
            raise OutboxFullError(disk_full(self._path))
        if disk < needed_on_disk:
            self._database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    @contextmanager
    def _locked_folder(self) -> Iterator[None]:
        """Lock the outbox's folder: two outboxes in it must not both count on the same free space.

        If the lock takes more than a second, continue without it. Windows has no such lock.
        """
        if sys.platform == "win32":
            yield
            return
        folder = os.open(self._path.parent, os.O_RDONLY)
        try:
            try:
                _lock(folder)
                yield
            finally:
                fcntl.flock(folder, fcntl.LOCK_UN)
        finally:
            # Also unlocks the folder, if an exception of a signal handler came before the line
            # above.
            os.close(folder)

    def checkpoint(self) -> None:
        """Copy the WAL to the database if possible. The next transaction reuses the WAL's space."""
        with suppress(sqlite3.Error):  # the WAL keeps what was not copied, until the next time
            self._database.execute("PRAGMA wal_checkpoint").fetchall()

    def shrink(self, *, kept_pages: int = _KEPT_PAGES, free_per_used: int = 3) -> None:
        """Return the file's free pages to the disk, so that other files can use the space.

        This runs VACUUM, which copies all pages in use. Do nothing in these cases:

        - Few pages are free: at most `kept_pages`, or at most `free_per_used` free pages for each
          page in use.
        - More than `_VACUUM_PAGES` pages are in use.
        - The disk has no room for two copies of the pages in use.
        """
        # A failure leaves the file as it was. It must not fail the caller, who has just removed
        # readings.
        with suppress(sqlite3.Error, OSError, MemoryError):
            pages = self._pages()
            if pages.free <= max(kept_pages, free_per_used * pages.used):
                return
            # The WAL takes a copy of the pages in use. Others need room, too.
            room = self._disk_free() + self._wal_bytes()
            if pages.used > _VACUUM_PAGES or room < 2 * pages.used * pages.size:
                return
            self._database.execute("VACUUM")
            # A checkpoint shortens the file. The WAL keeps its space, so that readings can be
            # removed even if another program fills the disk.
            self.checkpoint()

    def _pages(self) -> _Pages:
        size, count, free = (
            int(self._database.execute(f"PRAGMA {name}").fetchone()[0])
            for name in ("page_size", "page_count", "freelist_count")
        )
        return _Pages(size, count - free, free)

    def _disk_free(self) -> int:
        return shutil.disk_usage(self._path.parent).free

    def _wal_bytes(self) -> int:
        wal = Path(f"{self._path}-wal")
        return wal.stat().st_size if wal.exists() else 0


def _lock(folder: int) -> None:
    for _ in range(_LOCK_ATTEMPTS):
        with suppress(BlockingIOError):
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        time.sleep(_LOCK_PAUSE_SECONDS)
    # A program that keeps the folder locked does not stop this outbox.


def disk_full(path: Path) -> str:
    """Return the message for a disk without room."""
    return f"the disk of the outbox {path} is full: free some space"
