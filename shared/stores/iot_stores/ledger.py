"""The ledger: Postgres's record of which entries are stored.

A drain writes the ledger and its segments in one transaction, so each reading is stored exactly
once. If the writer is killed before the commit, nothing is stored. If it is killed after the
commit, its entries are still in the stream: the next drain finds them in the ledger and skips them.

Each session numbers its entries of a shard 1, 2, 3, ... The ledger keeps the highest stored number
and the missing numbers below. So entries may arrive in any order and any number of times, and the
ledger needs one row per session, not one per entry.
"""

import uuid
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, LiteralString, NamedTuple, cast

import psycopg

from iot_cipher.encryption import EntryName
from iot_models.segment import ID_STRIDE

from .postgres import Connection

# 0 shards stands for "the number of shards was changed": the ids of a new shard start above all ids
# that were used before.
_CREATE = """
    INSERT INTO ingest_offsets (shard, shards, position, received_max, next_id)
    SELECT shard, 0, '0-0', 0, 0 FROM unnest(%s::int2[]) AS shard ON CONFLICT (shard) DO NOTHING
"""
# The row lock lasts until the transaction ends, so at most one writer drains a shard. Postgres also
# releases the locks when the writer's connection breaks. A writer that hangs keeps its connection:
# the timeouts end its transaction, while it is idle or in the middle of a COPY.
# SKIP LOCKED, so that writers that drain several shards in different orders can't deadlock.
_LOCK: LiteralString = """
    SELECT shard, position, received_max, next_id, shards,
        EXISTS (SELECT FROM ingest_offsets WHERE shards NOT IN (%(shards)s, 0)),
        (SELECT bool_and(to_regclass(name) IS NOT NULL)
            FROM unnest(%(partitions)s::text[]) AS partitions (name)),
        set_config('idle_in_transaction_session_timeout', '10s', true),
        set_config('statement_timeout', '30s', true)
    FROM ingest_offsets WHERE shard = ANY(%(wanted)s::int2[]) FOR UPDATE SKIP LOCKED
"""
_MARK_CHANGE = """
    UPDATE ingest_offsets SET shards = 0 WHERE shard IN (
        SELECT shard FROM ingest_offsets
        WHERE shards NOT IN (%(shards)s, 0) AND shard <> ALL (%(wanted)s::int2[])
        FOR UPDATE SKIP LOCKED
    )
"""
_OFFSETS = """
    SELECT shard, position, received_max, next_id FROM ingest_offsets WHERE shard = ANY(%s::int2[])
"""
_HIGHEST = "SELECT max(received_max), max(next_id) FROM ingest_offsets"
# Besides the sessions, returns the missing vaults. Locks the existing vaults, so that no vault is
# erased before the segments are committed. The locks are taken in the order of the ids, so that a
# drain and an erasure can't deadlock.
_SESSIONS: LiteralString = """
    WITH existing AS MATERIALIZED (
        SELECT vault_id FROM vaults WHERE vault_id = ANY(%(vaults)s::uuid[])
        ORDER BY vault_id FOR KEY SHARE
    )
    SELECT shard, session, high, missing, NULL::uuid
    FROM unnest(%(session_shards)s::int2[], %(sessions)s::bytea[]) AS wanted (shard, session)
    JOIN ingest_sessions USING (shard, session)
    UNION ALL
    SELECT NULL, NULL, NULL, NULL, wanted.vault_id
    FROM unnest(%(vaults)s::uuid[]) AS wanted (vault_id)
    WHERE wanted.vault_id NOT IN (SELECT vault_id FROM existing)
"""
# Each statement of a message has its own snapshot (READ COMMITTED). So the sessions are read after
# the locks are taken, and include the drains that held the locks before. A single statement would
# read the sessions without these drains.
_BEGIN: LiteralString = f"BEGIN; {_LOCK}; {_SESSIONS}"
_EXISTING_VAULTS = "SELECT vault_id FROM vaults WHERE vault_id = ANY(%s::uuid[])"
# One statement for all sessions and shards instead of a pipeline: after a pipeline, Postgres does
# not apply idle_in_transaction_session_timeout. `missing` is passed as text, because unnest can't
# split an array of arrays of different lengths.
_SAVE: LiteralString = """
    WITH sessions AS (
        INSERT INTO ingest_sessions (shard, session, high, missing, seen_at)
        SELECT shard, session, high, missing::int8[],
            greatest(now(), to_timestamp(%s / 1000.0))
        FROM unnest(%s::int2[], %s::bytea[], %s::int8[], %s::text[])
            AS saved (shard, session, high, missing)
        ON CONFLICT (shard, session) DO UPDATE
        SET high = excluded.high, missing = excluded.missing, seen_at = excluded.seen_at
    )
    UPDATE ingest_offsets
    SET position = moved.position, received_max = moved.received_max, next_id = moved.next_id,
        shards = %s, moved_at = now()
    FROM unnest(%s::int2[], %s::text[], %s::int8[], %s::int8[])
        AS moved (shard, position, received_max, next_id)
    WHERE ingest_offsets.shard = moved.shard
"""
_FORGET = "DELETE FROM ingest_sessions WHERE seen_at < to_timestamp(%s / 1000.0)"
_KNOWN = """
    SELECT shard, session
    FROM unnest(%s::int2[], %s::bytea[]) AS wanted (shard, session)
    JOIN ingest_sessions USING (shard, session)
"""
_STORED = """
    SELECT count(*)
    FROM unnest(%s::int2[], %s::bytea[], %s::int8[]) AS wanted (shard, session, number)
    JOIN ingest_sessions USING (shard, session)
    WHERE number <= high AND number <> ALL (missing)
"""

MAX_MISSING = 100_000
"""When an entry is stored, the numbers between the highest stored number and its own are noted as
missing, but at most this many. Of a larger gap, only the highest numbers are noted, and the lower
ones count as stored. A gap gets larger only after a restore from backup, or if more entries of a
session than this become dead letters in one shard. A session rarely has so many: when entries
become dead letters, writers ask the API for new sessions."""


@dataclass(frozen=True, slots=True)
class Offset:
    """How far a shard is drained, and the id of its next reading, according to the ledger."""

    position: str
    """Stream id of the last drained entry. It shows whether the hot window missed a drain."""
    received_max: int
    """Latest time of receipt of the readings that the shard has stored, and that any shard stored
    before the last change of `IOT_SHARDS`. In Unix milliseconds."""
    next_id: int
    """Id of the next reading."""


@dataclass(slots=True)
class SessionNumbers:
    """The stored entries of one session and shard: numbers up to `high`, except for `missing`."""

    high: int = 0
    missing: set[int] = field(default_factory=set)

    def mark_stored(self, number: int) -> bool:
        """Mark an entry as stored. Return False if the entry was stored already."""
        if number == self.high + 1:
            self.high = number
            return True
        if number > self.high:
            self.missing.update(range(max(self.high + 1, number - MAX_MISSING), number))
            self.high = number
            return True
        if number in self.missing:
            self.missing.remove(number)
            return True
        return False

    def mark_missing(self, number: int) -> bool:
        """Mark an entry as not stored. Return False, and change nothing, if it was stored already.

        Held entries must be marked in this way. When a later entry is stored, `mark_stored` notes
        at most `MAX_MISSING` numbers before it as missing, and counts all lower numbers as stored,
        even the number of a held entry without a mark.
        """
        if number > self.high:
            self.mark_stored(number)
            self.missing.add(number)
        return number in self.missing


SessionKey = tuple[int, bytes]
"""A shard, and the id of a session that sent entries to it."""


def create_offsets(connection: Connection, shards: Collection[int]) -> None:
    """Create the rows of shards that have none.

    Must not be called in a drain's transaction: other writers that insert the same row would wait
    for the end of the drain.
    """
    connection.execute(_CREATE, (sorted(shards),))


class MissingPartitionError(Exception):
    """The history lacks the partition of a month."""


class LockedShards(NamedTuple):
    """The ledger's state of the shards that a drain has locked, and of the drain's sessions."""

    offsets: dict[int, Offset]
    """The states of the shards that are locked."""
    sessions: dict[SessionKey, SessionNumbers]
    """The stored numbers of each session. If the ledger lacks a session, no number is stored."""
    missing_vaults: set[uuid.UUID]
    """The vaults that Postgres lacks."""


def begin_drain(
    connection: Connection,
    wanted: Collection[int],
    shards: int,
    sessions: Collection[SessionKey] = (),
    *,
    vaults: Collection[uuid.UUID] = (),
    partitions: Collection[str] = (),
) -> LockedShards:
    """Begin a transaction and lock the wanted shards, except for shards locked by others.

    Return the ledger's records of the locked shards and of `sessions`, and which of `vaults` do not
    exist. Takes one round trip. A shard without a row (`create_offsets`) can't be locked. The
    existing vaults among `vaults` are locked against erasure until the transaction ends.

    `shards` is the number of shards (`IOT_SHARDS`). A change of this number moves vaults to other
    shards. So at the first drain of a shard after a change, the returned offset of the shard takes
    all shards into account:

    - `next_id` is above the ids of all shards, so that the ids of each vault keep rising.
    - `received_max` is the maximum of all shards, so that the shard's cover in the hot window
      begins after the readings of all shards.

    To detect a change, the row of each shard has the number of shards at the shard's last drain.
    The first drain after a change sets this number to 0 in the rows of all other shards. So these
    shards notice the change even if `IOT_SHARDS` is changed back before their next drain.

    Raises:
        MissingPartitionError: one of `partitions` does not exist. The transaction stays open.
    """
    keys = list(sessions)
    parameters = {
        "wanted": _array(wanted),
        "shards": shards,
        "partitions": _array(partitions),
        "session_shards": _array(shard for shard, _ in keys),
        "sessions": _byte_array(session for _, session in keys),
        "vaults": _array(vaults),
    }
    # The client puts the values into the text: a message with parameters holds one statement.
    cursor = psycopg.ClientCursor(connection)
    cursor.execute(_BEGIN, parameters)
    cursor.nextset()
    offsets = _locked_offsets(connection, cursor.fetchall(), parameters)
    cursor.nextset()
    numbers = {session: SessionNumbers() for session in keys}
    missing_vaults = set()
    for shard, session, high, missing, vault_id in cast(
        "Iterable[tuple[int, bytes, int, list[int], uuid.UUID | None]]", cursor
    ):
        if vault_id is not None:
            missing_vaults.add(vault_id)
        else:
            numbers[shard, session] = SessionNumbers(high, set(missing))
    return LockedShards(offsets, numbers, missing_vaults)


def _locked_offsets(
    connection: Connection, rows: Sequence[tuple[object, ...]], parameters: Mapping[str, object]
) -> dict[int, Offset]:
    """Return the offsets of the locked shards.

    If the number of shards was changed, also write 0 into the rows of the other shards (see
    `begin_drain`)."""
    shards = parameters["shards"]
    locked = {}
    for row in rows:
        shard, position, received_max, next_id, known_shards, changed, has_partitions, *_ = cast(
            "tuple[int, str, int, int, int, bool, bool | None, str, str]", row
        )
        if has_partitions is False:
            raise MissingPartitionError
        if changed:
            connection.execute(_MARK_CHANGE, parameters)
        if known_shards != shards:
            received_max, highest_id = _highest(connection)
            next_id = (highest_id // ID_STRIDE + 1) * ID_STRIDE + shard
        locked[shard] = Offset(position, received_max, next_id)
    return locked


def _highest(connection: Connection) -> tuple[int, int]:
    """Return the latest time of receipt and the highest next id of all shards."""
    return cast("tuple[int, int]", connection.execute(_HIGHEST).fetchone())


def read_offsets(connection: Connection, shards: Collection[int]) -> dict[int, Offset]:
    """Return the states of shards, without the shards that were never drained."""
    rows = connection.execute(_OFFSETS, (list(shards),)).fetchall()
    return {shard: Offset(*rest) for shard, *rest in cast("list[tuple[Any, ...]]", rows)}


def existing_vaults(connection: Connection, vaults: Collection[uuid.UUID]) -> set[uuid.UUID]:
    """Return the subset of the vaults that Postgres has."""
    rows = connection.execute(_EXISTING_VAULTS, (list(vaults),))
    return {vault_id for (vault_id,) in cast("Iterable[tuple[uuid.UUID]]", rows)}


def save(
    connection: Connection,
    sessions: Mapping[SessionKey, SessionNumbers],
    offsets: Mapping[int, Offset],
    *,
    received: int,
    shards: int,
    commit: bool = True,
) -> None:
    """Write which entries of each session are stored, and the offset of each shard; then commit.

    With `commit=False`, roll back: the call only shows whether Postgres accepts the rows. Takes one
    round trip.

    `received` is the time of receipt of the latest entry, in Unix milliseconds. `seen_at` of a
    session becomes the later of this time and Postgres's time, so that no session is deleted early
    if Postgres's clock is behind.
    """
    values = (
        received,
        _array(shard for shard, _ in sessions),
        _byte_array(session for _, session in sessions),
        _array(numbers.high for numbers in sessions.values()),
        _array(f'"{_array(sorted(numbers.missing))}"' for numbers in sessions.values()),
        shards,
        _array(offsets),
        _array(offset.position for offset in offsets.values()),
        _array(offset.received_max for offset in offsets.values()),
        _array(offset.next_id for offset in offsets.values()),
    )
    statement = f"{_SAVE}; COMMIT" if commit else f"{_SAVE}; ROLLBACK"
    psycopg.ClientCursor(connection).execute(statement, values)


def _array(values: Iterable[object]) -> str:
    """Return numbers, UUIDs or names as the text of an array.

    Escaping each value with psycopg would take half of the CPU time of `begin_drain` and `save`.
    """
    return "{" + ",".join(map(str, values)) + "}"


def _byte_array(values: Iterable[bytes]) -> str:
    return _array(rf'"\\x{value.hex()}"' for value in values)


def forget_sessions(connection: Connection, before: int) -> None:
    """Delete the sessions whose `seen_at` (see `save`) is before `before`, in Unix milliseconds."""
    connection.execute(_FORGET, (before,))


def known_sessions(connection: Connection, sessions: Collection[SessionKey]) -> set[SessionKey]:
    """Return the subset of the sessions that have a row."""
    parameters = ([shard for shard, _ in sessions], [session for _, session in sessions])
    return set(cast("list[SessionKey]", connection.execute(_KNOWN, parameters).fetchall()))


def are_stored(connection: Connection, entries: Collection[EntryName]) -> bool:
    """Return whether all of these entries are stored."""
    shards, sessions, numbers = zip(*entries, strict=True)
    row = connection.execute(_STORED, (list(shards), list(sessions), list(numbers))).fetchone()
    return cast("tuple[int]", row)[0] == len(entries)
