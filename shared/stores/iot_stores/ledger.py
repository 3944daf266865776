"""The ledger of what is stored: per shard its position and next id, per session its numbers.

Exactly once stands on this: whether an entry is stored is written in the same transaction as its
segments. A session's entries are numbered 1, 2, 3, ... per shard; the ledger keeps the highest
number stored and those below it that are missing, so it answers for every entry there ever was,
in whatever order and however often they come.
"""

import uuid
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import cast

from iot_cipher.envelope import EntryName
from iot_models.segment import ID_STRIDE

from .postgres import Connection

# Of 0 shards, as after a change of their number: its ids begin above all that were given by then.
_CREATE = """
    INSERT INTO ingest_offsets (shard, shards, position, received_max, next_id)
    SELECT shard, 0, '0-0', 0, 0 FROM unnest(%s::int2[]) AS shard ON CONFLICT (shard) DO NOTHING
"""
# A writer that hangs with shards in its hands loses them: when its transaction is idle for so long,
# or, in the middle of a COPY, when that takes so long.
_LOCK = """
    SELECT shard, position, received_max, next_id, shards,
        EXISTS (SELECT FROM ingest_offsets WHERE shards NOT IN (%(shards)s, 0)),
        set_config('idle_in_transaction_session_timeout', '10s', true),
        set_config('statement_timeout', '30s', true)
    FROM ingest_offsets WHERE shard = ANY(%(wanted)s) FOR UPDATE SKIP LOCKED
"""
_NOTE_CHANGE = """
    UPDATE ingest_offsets SET shards = 0 WHERE shard IN (
        SELECT shard FROM ingest_offsets
        WHERE shards NOT IN (%(shards)s, 0) AND shard <> ALL (%(wanted)s) FOR UPDATE SKIP LOCKED
    )
"""
_HIGHEST_ID = "SELECT coalesce(max(next_id), 0) FROM ingest_offsets"
_SAVE_OFFSETS = """
    UPDATE ingest_offsets
    SET position = moved.position, received_max = moved.received_max, next_id = moved.next_id,
        shards = %s, moved_at = now()
    FROM unnest(%s::int2[], %s::text[], %s::int8[], %s::int8[])
        AS moved (shard, position, received_max, next_id)
    WHERE ingest_offsets.shard = moved.shard
"""
# With it, which vaults there are, locked: none is deleted before the segments are committed. In the
# order of their ids, so that a drain and an erasure never wait for one another.
_SESSIONS = """
    WITH there AS MATERIALIZED (
        SELECT vault_id FROM vaults WHERE vault_id = ANY(%(vaults)s::uuid[])
        ORDER BY vault_id FOR KEY SHARE
    )
    SELECT shard, session, high, missing, NULL::uuid
    FROM unnest(%(shards)s::int2[], %(sessions)s::bytea[]) AS asked (shard, session)
    JOIN ingest_sessions USING (shard, session)
    UNION ALL
    SELECT NULL, NULL, NULL, NULL, asked.vault_id
    FROM unnest(%(vaults)s::uuid[]) AS asked (vault_id)
    WHERE asked.vault_id NOT IN (SELECT vault_id FROM there)
"""
_THERE = "SELECT vault_id FROM vaults WHERE vault_id = ANY(%s::uuid[])"
# One statement, not one for each in a pipeline: after a pipeline Postgres doesn't end a transaction
# that stays idle.
_SAVE_SESSIONS = """
    INSERT INTO ingest_sessions (shard, session, high, missing, seen_at)
    SELECT shard, session, high, missing::int8[],
        greatest(now(), to_timestamp(%s / 1000.0))
    FROM unnest(%s::int2[], %s::bytea[], %s::int8[], %s::text[])
        AS kept (shard, session, high, missing)
    ON CONFLICT (shard, session) DO UPDATE
    SET high = excluded.high, missing = excluded.missing, seen_at = excluded.seen_at
"""
_FORGET = "DELETE FROM ingest_sessions WHERE seen_at < to_timestamp(%s / 1000.0)"
_KNOWN = """
    SELECT shard, session
    FROM unnest(%s::int2[], %s::bytea[]) AS asked (shard, session)
    JOIN ingest_sessions USING (shard, session)
"""


_STORED = """
    SELECT count(*)
    FROM unnest(%s::int2[], %s::bytea[], %s::int8[]) AS asked (shard, session, number)
    JOIN ingest_sessions USING (shard, session)
    WHERE number <= high AND number <> ALL (missing)
"""


MAX_MISSING = 100_000
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

    def mark_stored(self, number: int) -> bool:
        """Note an entry as stored; False if it was already."""
        if number > self.high:
            self.missing.update(range(max(self.high + 1, number - MAX_MISSING), number))
            self.high = number
            return True
        if number in self.missing:
            self.missing.remove(number)
            return True
        return False

    def mark_missing(self, number: int) -> bool:
        """Note that an entry is not stored yet, however many of the next ones are; False if it is.

        Else a later number would leave it more than `MAX_MISSING` behind, and it would count as
        stored.
        """
        if number > self.high:
            self.mark_stored(number)
            self.missing.add(number)
        return number in self.missing


SessionOf = tuple[int, bytes]
"""A shard, and a session that sent entries to it."""


def create_offsets(connection: Connection, shards: Collection[int]) -> None:
    """Let these shards begin, if they have not: nothing of them is stored.

    Not within a drain's transaction: others would wait for its end.
    """
    connection.execute(_CREATE, (sorted(shards),))


def lock_offsets(connection: Connection, wanted: Collection[int], shards: int) -> dict[int, Offset]:
    """Take those of the shards that no other writer has, for the transaction that is open. One that
    was never created can't be taken.

    `shards` is how many there are. When their number was changed, vaults have moved from one to
    another: ids then go on above all that were given, so that a vault's still grow. The first
    drain after a change notes it (as 0 shards) at all others, for it may be changed back before
    their next drain.
    """
    which = {"wanted": list(wanted), "shards": shards}
    locked = {}
    for row in connection.execute(_LOCK, which).fetchall():
        shard, position, received_max, next_id, known_shards, changed, *_ = cast(
            "tuple[int, str, int, int, int, bool, str, str]", row
        )
        if changed:
            connection.execute(_NOTE_CHANGE, which)
        if known_shards != shards:
            next_id = max(next_id, _next_free_id(connection, shard))
        locked[shard] = Offset(position, received_max, next_id)
    return locked


def _next_free_id(connection: Connection, shard: int) -> int:
    highest = cast("tuple[int]", connection.execute(_HIGHEST_ID).fetchone())[0]
    return (highest // ID_STRIDE + 1) * ID_STRIDE + shard


def save_offsets(connection: Connection, offsets: Mapping[int, Offset], shards: int) -> None:
    """Write where shards stand now."""
    values = (
        shards,
        list(offsets),
        [offset.position for offset in offsets.values()],
        [offset.received_max for offset in offsets.values()],
        [offset.next_id for offset in offsets.values()],
    )
    connection.execute(_SAVE_OFFSETS, values)


def load_sessions(
    connection: Connection, sessions: Iterable[SessionOf], vaults: Collection[uuid.UUID] = ()
) -> tuple[dict[SessionOf, SessionNumbers], set[uuid.UUID]]:
    """What is stored of these sessions; those not met before are empty. And which of the vaults
    Postgres does not have. The others stay there until the transaction ends.
    """
    numbers = {session: SessionNumbers() for session in sessions}
    asked = {
        "shards": [shard for shard, _ in numbers],
        "sessions": [session for _, session in numbers],
        "vaults": list(vaults),
    }
    rows = connection.execute(_SESSIONS, asked)
    missing_vaults = set()
    for shard, session, high, missing, vault_id in cast(
        "Iterable[tuple[int, bytes, int, list[int], uuid.UUID | None]]", rows
    ):
        if vault_id is not None:
            missing_vaults.add(vault_id)
        else:
            numbers[shard, session] = SessionNumbers(high, set(missing))
    return numbers, missing_vaults


def existing_vaults(connection: Connection, vaults: Collection[uuid.UUID]) -> set[uuid.UUID]:
    """Those of the vaults that Postgres has."""
    rows = connection.execute(_THERE, (list(vaults),))
    return {vault_id for (vault_id,) in cast("Iterable[tuple[uuid.UUID]]", rows)}


def save_sessions(
    connection: Connection, sessions: Mapping[SessionOf, SessionNumbers], received: int
) -> None:
    """Write what is stored of these sessions now.

    They are seen at the later of Postgres's time and `received`, when the latest entry was (Unix
    milliseconds): a session is not forgotten early because Postgres's clock was behind.
    """
    values = (
        received,
        [shard for shard, _ in sessions],
        [session for _, session in sessions],
        [numbers.high for numbers in sessions.values()],
        ["{" + ",".join(map(str, sorted(each.missing))) + "}" for each in sessions.values()],
    )
    connection.execute(_SAVE_SESSIONS, values)


def forget_sessions(connection: Connection, before: int) -> None:
    """Forget the sessions that were not seen since `before`, in Unix milliseconds."""
    connection.execute(_FORGET, (before,))


def known_sessions(connection: Connection, sessions: Collection[SessionOf]) -> set[SessionOf]:
    """Those of the sessions that the ledger knows."""
    asked = ([shard for shard, _ in sessions], [session for _, session in sessions])
    return set(cast("list[SessionOf]", connection.execute(_KNOWN, asked).fetchall()))


def are_stored(connection: Connection, entries: Collection[EntryName]) -> bool:
    """Whether all of these entries are stored."""
    shards, sessions, numbers = zip(*entries, strict=True)
    row = connection.execute(_STORED, (list(shards), list(sessions), list(numbers))).fetchone()
    return cast("tuple[int]", row)[0] == len(entries)
