"""The ledger of what is stored: per shard its position and next id, per session its numbers.

Exactly once stands on this: whether an entry is stored is written in the same transaction as its
segments. A session's entries are numbered 1, 2, 3, ... per shard; the ledger keeps the highest
number stored and those below it that are missing, so it answers for every entry there ever was,
in whatever order and however often they come.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import cast

from iot_cipher.envelope import EntryName
from iot_models.segment import ID_STRIDE

from .postgres import Connection

_CREATE = """
    INSERT INTO ingest_offsets (shard, shards, position, received_max, next_id)
    VALUES (%s, %s, '0-0', 0, %s) ON CONFLICT (shard) DO NOTHING
"""
_LOCK = """
    SELECT position, received_max, next_id, shards,
        EXISTS (SELECT FROM ingest_offsets WHERE shards NOT IN (%(shards)s, 0))
    FROM ingest_offsets WHERE shard = %(shard)s FOR UPDATE SKIP LOCKED
"""
_NOTE_CHANGE = """
    UPDATE ingest_offsets SET shards = 0 WHERE shard IN (
        SELECT shard FROM ingest_offsets
        WHERE shards NOT IN (%(shards)s, 0) AND shard <> %(shard)s FOR UPDATE SKIP LOCKED
    )
"""
_EXISTS = "SELECT 1 FROM ingest_offsets WHERE shard = %s"
_HIGHEST_ID = "SELECT coalesce(max(next_id), 0) FROM ingest_offsets"
_MOVE = """
    UPDATE ingest_offsets
    SET position = %s, received_max = %s, next_id = %s, shards = %s, moved_at = now()
    WHERE shard = %s
"""
_SESSIONS = """
    SELECT session, high, missing FROM ingest_sessions WHERE shard = %s AND session = ANY(%s)
"""
_KEEP_SESSION = """
    INSERT INTO ingest_sessions (shard, session, high, missing) VALUES (%s, %s, %s, %s)
    ON CONFLICT (shard, session) DO UPDATE
    SET high = excluded.high, missing = excluded.missing, seen_at = now()
"""


_STORED = """
    SELECT count(*)
    FROM unnest(%s::int2[], %s::bytea[], %s::int8[]) AS asked (shard, session, number)
    JOIN ingest_sessions USING (shard, session)
    WHERE number <= high AND number <> ALL (missing)
"""


MOST_MISSING = 100_000
"""Numbers that one entry may leave missing. More are left by a database that was restored from a
backup only, and those entries are stored no more."""


@dataclass(frozen=True, slots=True)
class Offset:
    """Where a shard stands."""

    position: str
    """Id of the entry drained last; tells the hot window which drain came before the next."""
    received_max: int
    """Unix milliseconds of the latest entry ever drained."""
    next_id: int
    """Id of the next reading."""


@dataclass(slots=True)
class SessionNumbers:
    """Which of one session's entries are stored: all up to `high` but for `missing`."""

    high: int = 0
    missing: set[int] = field(default_factory=set)

    def admit(self, number: int) -> bool:
        """Note an entry as stored; False if it was already."""
        if number > self.high:
            self.missing.update(range(max(self.high + 1, number - MOST_MISSING), number))
            self.high = number
            return True
        if number in self.missing:
            self.missing.remove(number)
            return True
        return False


def lock_offset(connection: Connection, shard: int, shards: int) -> Offset | None:
    """Take a shard for the transaction that is open; None when another writer has it.

    When the number of shards was changed, vaults have moved from one to another: ids then go on
    above all that were given, so that a vault's still grow. The first drain after a change notes
    it (as 0 shards) at all others, for it may be changed back before their next drain.
    """
    which = {"shard": shard, "shards": shards}
    row = connection.execute(_LOCK, which).fetchone()
    if row is None and connection.execute(_EXISTS, (shard,)).fetchone() is None:
        connection.execute(_CREATE, (shard, shards, _next_free_id(connection, shard)))
        row = connection.execute(_LOCK, which).fetchone()
    if row is None:
        return None
    position, received_max, next_id, known_shards, changed = cast(
        "tuple[str, int, int, int, bool]", row
    )
    if changed:
        connection.execute(_NOTE_CHANGE, which)
    if known_shards != shards:
        next_id = max(next_id, _next_free_id(connection, shard))
    return Offset(position, received_max, next_id)


def _next_free_id(connection: Connection, shard: int) -> int:
    highest = cast("tuple[int]", connection.execute(_HIGHEST_ID).fetchone())[0]
    return (highest // ID_STRIDE + 1) * ID_STRIDE + shard


def move_offset(connection: Connection, shard: int, shards: int, offset: Offset) -> None:
    """Write where a shard stands now."""
    values = (offset.position, offset.received_max, offset.next_id, shards, shard)
    connection.execute(_MOVE, values)


def load_sessions(
    connection: Connection, shard: int, sessions: Iterable[bytes]
) -> dict[bytes, SessionNumbers]:
    """What is stored of these sessions; those not met before are empty."""
    numbers = {session: SessionNumbers() for session in sessions}
    found = connection.execute(_SESSIONS, (shard, list(numbers)))
    for session, high, missing in cast("Iterable[tuple[bytes, int, list[int]]]", found):
        numbers[session] = SessionNumbers(high, set(missing))
    return numbers


def keep_sessions(
    connection: Connection, shard: int, sessions: dict[bytes, SessionNumbers]
) -> None:
    """Write what is stored of these sessions now."""
    with connection.cursor() as cursor:
        cursor.executemany(
            _KEEP_SESSION,
            [
                (shard, session, numbers.high, sorted(numbers.missing))
                for session, numbers in sessions.items()
            ],
        )


def are_stored(connection: Connection, entries: Collection[EntryName]) -> bool:
    """Whether all of these entries are stored."""
    shards, sessions, numbers = zip(*entries, strict=True)
    row = connection.execute(_STORED, (list(shards), list(sessions), list(numbers))).fetchone()
    return cast("tuple[int]", row)[0] == len(entries)
