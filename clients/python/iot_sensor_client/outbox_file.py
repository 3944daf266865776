"""The file of an outbox: readings that wait in SQLite, in batches.

A batch keeps its readings and its Idempotency-Key, so that a repeated request is the same."""

import os
import sqlite3
import threading
import time
import uuid
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from .batches import MAX_BYTES as MAX_BATCH_BYTES
from .errors import OutboxError, OutboxFullError, OutboxInUseError
from .outbox_rejected import (
    REJECTED,
    REJECTED_TABLES,
    ROW_BYTES,
    WAITING,
    RejectedReading,
    RejectedRows,
)
from .outbox_space import WAL_BYTES, OutboxSpace, disk_full

_PAGE_BYTES = 4096
"""Bytes of the WAL that removing one small reading takes, if its neighbours stay."""
_APPLICATION_ID = 0x696F7478
_VERSION = 2
_TABLES = f"""
BEGIN EXCLUSIVE;
CREATE TABLE batches (
    id INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL, created REAL NOT NULL, tried REAL
);
CREATE TABLE readings (
    id INTEGER PRIMARY KEY AUTOINCREMENT, batch INTEGER NOT NULL, body TEXT NOT NULL
);
{REJECTED_TABLES}
CREATE TABLE state (clean INTEGER NOT NULL);
INSERT INTO state VALUES (1);
PRAGMA application_id = {_APPLICATION_ID};
PRAGMA user_version = {_VERSION};
COMMIT;
"""  # noqa: S608 -- constants


@dataclass(frozen=True, slots=True)
class Batch:
    """The oldest readings of the file, which one request sends. Every attempt sends the same
    readings under the same Idempotency-Key.
    """

    id: int
    key: str
    first: int
    last: int
    rows: Sequence[str]
    created: float
    tried: float | None
    """Unix time of the first attempt whose result is unknown. If the process was killed before it
    recorded the attempt: the time when the batch was created. None: no result is unknown."""
    taken: float
    """Unix time at which `take` returned the batch. A time after the attempt would be too late: the
    machine may be suspended after the service has stored the batch."""


@dataclass(slots=True)
class Counts:
    """How many readings and bytes the file holds."""

    waiting: int
    rejected: int
    bytes: int


class OutboxFile:
    """The readings of one outbox. Thread-safe; the file is locked against other processes.

    A change is made as a whole or not at all. It is on the disk (WAL, `synchronous=FULL`) when its
    method returns. All methods raise `OutboxError` if the file can't be read or written.

    `append` adds readings to the newest batch, until `take` returns this batch or the file is
    opened again. After that, `append` begins a new batch.
    """

    def __init__(self, path: Path, max_bytes: int, batch_size: int, added_bytes: int = 0) -> None:
        """`added_bytes`: what a request adds to each reading, such as the password."""
        self._path = path
        self._added_bytes = added_bytes
        self._max_bytes = max_bytes
        self._batch_size = batch_size
        self._lock = threading.RLock()
        self._open: tuple[int, int, int] | None = None
        """The batch that takes the next reading: its id, the number of its readings, their bytes in
        a request. None: the next reading begins a batch."""
        self._attempts = False
        self._unrecorded: tuple[int, float] | None = None
        """Id of a batch, and the time of its first attempt, if this time is not in the file yet."""
        self._counts: Counts | None = None
        """How much the file holds. None: not known, the readings have to be counted."""
        with self._reported():
            # The process may change its folder. SQLite puts the WAL beside the target of a link.
            self._path = Path(os.path.realpath(path))
            _create_private(self._path)
            self._db = sqlite3.connect(
                self._path, timeout=1.0, isolation_level=None, check_same_thread=False
            )
            # Only `close` may close the connection: if the garbage collector of a forked child did,
            # SQLite would delete the WAL of the parent. A connection is not collected while one of
            # its own functions refers to it.
            self._db.create_function("kept_open", 0, self._db.cursor)
            self._space = OutboxSpace(self._path, self._db)
            self._rejected = RejectedRows(self._db)
            try:
                self._prepare()
            except BaseException:
                self._db.close()
                raise

    def _prepare(self) -> None:
        # The lock is held until the file is closed or the process ends. The index of the WAL then
        # stays in memory, so the file may be on a file system without shared memory.
        run = self._db.execute
        run("PRAGMA locking_mode = EXCLUSIVE")
        (empty,) = run("SELECT count(*) = 0 FROM sqlite_master").fetchone()
        found = (run("PRAGMA application_id").fetchone(), run("PRAGMA user_version").fetchone())
        if not empty and found != ((_APPLICATION_ID,), (_VERSION,)):
            raise OutboxError(f"{self._path} is not an outbox of this version of the client")
        for each in (self._path, Path(f"{self._path}-wal")):  # files that were there before
            with suppress(FileNotFoundError, PermissionError):  # of another user
                each.chmod(0o600)
        # Debian's SQLite overwrites deleted rows by default: it writes each freed page to the WAL.
        # Removing a batch could then need more space than a full outbox leaves on the disk.
        run("PRAGMA secure_delete = OFF")
        run("PRAGMA temp_store = MEMORY")  # for VACUUM: the disk may be full
        run("PRAGMA journal_mode = WAL")
        run("PRAGMA synchronous = FULL")
        run("PRAGMA fullfsync = ON")  # macOS: fsync alone does not reach the disk
        run("PRAGMA wal_autocheckpoint = 100")  # pages
        run(f"PRAGMA journal_size_limit = {WAL_BYTES}")
        if empty:
            self._db.executescript(_TABLES)
        self._counts = self._count()

    def _before_first_attempt(self) -> None:
        """Before the first attempt of this process, record in the file that attempts are under way.

        `close` removes this record. If the file has the record already, the last process ended
        without `close`. It may have sent the oldest batch: record an attempt for this batch, too.

        Opening the file does not write the record, because the disk may be full.
        """
        if self._attempts:
            return
        with self._transaction():
            self._db.execute(
                "UPDATE batches SET tried = created WHERE tried IS NULL"  # noqa: S608 -- constants
                f" AND id = (SELECT batch FROM {WAITING} ORDER BY id LIMIT 1)"
                " AND NOT (SELECT clean FROM state)"
            )
            self._db.execute("UPDATE state SET clean = 0")
        self._attempts = True

    def counts(self) -> Counts:
        """Return how many readings and bytes the file holds."""
        with self._lock, self._reported():
            if self._counts is None:
                self._counts = self._count()
            return replace(self._counts)

    def _count(self) -> Counts:
        size = f"count(*), coalesce(sum(length(body) + {ROW_BYTES}), 0)"
        (waiting, waiting_bytes), (rejected, rejected_bytes) = (
            self._db.execute(f"SELECT {size} FROM {rows}").fetchone()  # noqa: S608 -- constants
            for rows in (WAITING, REJECTED)
        )
        held = waiting_bytes + rejected_bytes + self._rejected.reason_bytes()
        return Counts(waiting, rejected, held)

    def grows(self) -> bool:
        """Return whether `append` may add readings to the batch that `take` would return."""
        with self._lock:
            _, count, size = self._open or (0, 0, 0)
            room = count < self._batch_size and size + self._added_bytes < MAX_BATCH_BYTES
            return room and 0 < count == self.counts().waiting

    def last_id(self) -> int:
        """Return the id of the newest waiting reading; 0 if no reading waits."""
        with self._lock, self._reported():
            query = f"SELECT coalesce(max(id), 0) FROM {WAITING}"  # noqa: S608 -- constants
            (newest,) = self._db.execute(query).fetchone()
        return int(newest)

    def append(self, rows: Sequence[str]) -> None:
        """Store readings, all of them or none.

        Raises:
            OutboxFullError: they exceed the limit, or the disk is full.
        """
        added = _size(rows)
        with self._lock, self._reported():
            held = self.counts().bytes
            if held + added > self._max_bytes:
                raise OutboxFullError(
                    f"the outbox {self._path} is full: it holds {held} of {self._max_bytes}"
                    f" bytes, and the readings need {added}; none of them was stored"
                )
            with self._space.room_for(added), self._transaction() as counts:
                self._insert(rows)
                counts.waiting += len(rows)
                counts.bytes += added

    def _insert(self, rows: Sequence[str]) -> None:
        batch, count, size = self._open or (0, 0, 0)
        placed = []
        for row in rows:
            added = self._added_bytes + len(row)
            if not batch or count >= self._batch_size or size + added > MAX_BATCH_BYTES:
                batch, count, size = self._new_batch(time.time()), 0, 0
            placed.append((batch, row))
            count += 1
            size += added
        self._db.executemany("INSERT INTO readings (batch, body) VALUES (?, ?)", placed)
        self._open = (batch, count, size)

    def _new_batch(self, created: float) -> int:
        inserted = self._db.execute(
            "INSERT INTO batches (key, created) VALUES (?, ?)", (str(uuid.uuid4()), created)
        )
        return int(inserted.lastrowid or 0)

    def take(self) -> Batch | None:
        """Return the oldest batch, which stays in the file; None if no reading waits."""
        with self._lock, self._reported():
            self._before_first_attempt()
            rows: list[str] = []
            first = last = number = 0
            query = f"SELECT id, batch, body FROM {WAITING} ORDER BY id"  # noqa: S608 -- constants
            with closing(self._db.execute(query)) as found:
                for reading, batch, body in found:
                    if rows and batch != number:
                        break
                    first, last, number = first or reading, reading, batch
                    rows.append(body)
            if not rows:
                return None
            if self._open and self._open[0] == number:
                self._open = None
            key, created, tried = self._db.execute(
                "SELECT key, created, tried FROM batches WHERE id = ?", (number,)
            ).fetchone()
            if tried is None and self._unrecorded and self._unrecorded[0] == number:
                tried = self._unrecorded[1]
            return Batch(number, key, first, last, rows, created, tried, time.time())

    def note_attempt(self, batch: Batch) -> None:
        """Record that the result of an attempt is unknown, with the time when `take` returned the
        batch.

        If the file can't be written, the time stays in memory: `take` returns it in `Batch.tried`,
        and `close` records it.
        """
        with self._lock, self._reported():
            self._unrecorded = (batch.id, batch.taken)
            self._record_attempt()

    def _record_attempt(self) -> None:
        if self._unrecorded is None:
            return
        number, at = self._unrecorded
        with self._transaction():
            self._db.execute("UPDATE batches SET tried = ? WHERE id = ?", (at, number))
        self._unrecorded = None

    def remove(self, batch: Batch) -> None:
        """Remove an acknowledged batch.

        If the file can't be written, the time of the attempt is kept as by `note_attempt`: after a
        restart, the outbox sends the batch again.
        """
        with self._lock, self._reported():
            noted = self._unrecorded is not None and self._unrecorded[0] == batch.id
            if batch.tried is None and not noted:
                self._unrecorded = (batch.id, batch.taken)
            with self._transaction() as counts:
                if self._end(batch):
                    delete = "DELETE FROM readings WHERE id BETWEEN ? AND ?"
                    self._db.execute(delete, (batch.first, batch.last))
                    counts.waiting -= len(batch.rows)
                    counts.bytes -= _size(batch.rows)
            self._unrecorded = None
            self._space.shrink()

    def split(self, batch: Batch) -> None:
        """Divide a batch into two batches with new Idempotency-Keys.

        The service must not have stored the readings: under new keys, it would store them again.
        """
        middle = batch.first + len(batch.rows) // 2
        with self._lock, self._reported(), self._transaction():
            for first, last in ((batch.first, middle - 1), (middle, batch.last)):
                self._db.execute(
                    "UPDATE readings SET batch = ? WHERE id BETWEEN ? AND ?",
                    (self._new_batch(batch.created), first, last),
                )
            self._db.execute("DELETE FROM batches WHERE id = ?", (batch.id,))

    def set_aside(self, batch: Batch, reason: str) -> None:
        """Reject the readings of a batch. They stay where they are: the disk may be full."""
        with self._lock, self._reported(), self._transaction() as counts:
            if self._end(batch):
                counts.bytes += self._rejected.add(batch.first, batch.last, reason)
                counts.waiting -= len(batch.rows)
                counts.rejected += len(batch.rows)

    def _end(self, batch: Batch) -> bool:
        """Delete the entry of a batch. Return False if it was deleted before.

        If `remove` or `set_aside` raises an error, the outbox calls it again. The call with the
        error may have changed the file nevertheless.
        """
        return self._db.execute("DELETE FROM batches WHERE id = ?", (batch.id,)).rowcount > 0

    def rejected(self) -> list[RejectedReading]:
        """Return the rejected readings, oldest first."""
        with self._lock, self._reported():
            return self._rejected.readings()

    def take_back(self, ids: Sequence[int], *, send: bool) -> int:
        """Remove rejected readings. With `send`, append them to the waiting readings.

        This takes several transactions. After an error, call it again with the same ids.

        Returns:
            How many of `ids` were ids of rejected readings.
        """
        left = deque(ids)
        count = 0
        with self._lock, self._reported():
            while left:
                count += self._take_back(left, send=send)
            with self._transaction() as counts:
                counts.bytes -= self._rejected.delete_unused()
            self._space.shrink()
            return count

    def _take_back(self, left: deque[int], *, send: bool) -> int:
        """Take back as many readings as the disk has room for in the WAL, at least one."""
        room = self._space.wal_room()
        rows: list[str] = []
        with self._transaction() as counts:
            while left and room > 0:
                for row in self._rejected.delete(left.popleft()):
                    rows.append(row)
                    room -= _PAGE_BYTES + len(row)
            if send and rows:
                self._insert(rows)
            counts.rejected -= len(rows)
            counts.waiting += len(rows) if send else 0
            counts.bytes -= 0 if send else _size(rows)
        return len(rows)

    def close(self) -> None:
        """Close the file, and record in it that no attempt is under way.

        Call this only after the last attempt has ended.
        """
        with self._lock, self._reported():
            try:
                if self._attempts:
                    self._record_attempt()
                    with self._transaction():
                        self._db.execute("UPDATE state SET clean = 1")
            finally:
                self._db.close()

    @contextmanager
    def _transaction(self) -> Iterator[Counts]:
        """Run a transaction. The caller adjusts the yielded counts to its changes."""
        before = self.counts()
        after = replace(before)
        self._counts = None
        try:
            self._db.execute("BEGIN IMMEDIATE")
            yield after
            self._db.execute("COMMIT")
            self._counts = after
        except BaseException as error:
            self._open = None  # its batch may be undone
            # An exception of a signal handler (KeyboardInterrupt) may come after COMMIT has
            # succeeded. The readings are then counted again.
            undone = self._db.in_transaction or isinstance(error, sqlite3.Error)
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            if undone:
                self._counts = before
            if isinstance(error, sqlite3.Error):
                self._space.checkpoint()  # the disk may be full
            raise

    @contextmanager
    def _reported(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF
            if code == sqlite3.SQLITE_FULL:
                raise OutboxFullError(disk_full(self._path)) from error
            if code == sqlite3.SQLITE_BUSY:
                raise OutboxInUseError(
                    f"{self._path} is in use by another outbox, or was in use when this process was"
                    " forked"
                ) from error
            raise OutboxError(f"{self._path} can't be read or written: {error}") from error


def _create_private(path: Path) -> None:
    """Create the file, readable by its owner alone. SQLite gives its other files the same mode."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except FileExistsError:
        return
    if os.name == "nt":
        return  # a folder can't be synced
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the name of the file survives a power loss
    finally:
        os.close(folder)


def _size(rows: Sequence[str]) -> int:
    return sum(map(len, rows)) + ROW_BYTES * len(rows)
