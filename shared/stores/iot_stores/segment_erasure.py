"""Erasure of segments in the history, for API processes.

Functions in the database erase and replace segments, because the role of the API processes
has no right to write the table `segments`.

A segment is named by `first_id`, `received_min` and its salt. Compaction may replace a segment at
any time; the new segment has another salt, so nothing is erased by mistake.
"""

import uuid
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from datetime import datetime
from typing import LiteralString, cast

from iot_cipher.encryption import SealedSegment
from iot_models.segment import SegmentBounds

from .history import COLUMNS, StoredSegment, read_transaction
from .postgres import IDLE_LIMIT, Connection, transaction

_SALT: LiteralString = "substring(payload FROM 2 FOR 16)"
_FIND: LiteralString = f"""
    SELECT {COLUMNS}, {_SALT}, octet_length(payload) FROM segments
    WHERE vault_id = %(vault_id)s AND relative_max >= %(low)s AND relative_min <= %(high)s
    ORDER BY received_min, first_id
"""  # noqa: S608 - composed of constants
_EXISTS: LiteralString = f"""
    SELECT FROM segments
    WHERE vault_id = %s AND first_id = %s AND received_min = %s AND {_SALT} = %s
"""
_CREATED_AT = "SELECT created_at FROM vaults WHERE vault_id = %s"
_ERASE = "SELECT * FROM erase_segments(%s::uuid, %s::int8[], %s::int8[], %s::bytea[])"
_REPLACE = "SELECT replace_segment(%s::uuid, %s, %s, %s::bytea, %s::int8[], %s::bytea)"
# Triggers and constraints of `segments` belong to the role of the writers. An attacker with this
# role could make them change settings of this session, such as row_security. RESET ALL undoes this
# before the session, or a connection of a pooler, serves another statement. It also undoes
# IDLE_LIMIT, so this limit is set again: the transaction still has to be committed.
_RESET: LiteralString = f"RESET ALL; {IDLE_LIMIT}"


@dataclass(frozen=True, slots=True)
class NamedSegment:
    """The bounds, salt and size of a segment, without its payload."""

    bounds: SegmentBounds
    salt: bytes
    size: int
    """Bytes of the payload."""

    @property
    def name(self) -> tuple[int, int, bytes]:
        """`first_id`, `received_min` and salt, which identify the segment within its vault."""
        return self.bounds.first_id, self.bounds.received_min, self.salt


def vault_created_at(connection: Connection, vault_id: uuid.UUID) -> datetime | None:
    """Return when the row of a vault was created or restored; None if Postgres lacks the row."""
    found = connection.execute(_CREATED_AT, (vault_id,)).fetchone()
    return None if found is None else cast("datetime", found[0])


def find(connection: Connection, vault_id: uuid.UUID, low: int, high: int) -> list[NamedSegment]:
    """Return the segments that may have relative timestamps from `low` to `high`, inclusive."""
    parameters = {"vault_id": vault_id, "low": low, "high": high}
    rows = connection.execute(_FIND, parameters, binary=True).fetchall()
    found = []
    for row in rows:
        *bounds, salt, size = row
        found.append(
            NamedSegment(
                SegmentBounds(*cast("list[int]", bounds)), cast("bytes", salt), cast("int", size)
            )
        )
    return found


def fetch(
    connection: Connection, vault_id: uuid.UUID, segment: NamedSegment
) -> bytes | bytearray | None:
    """Return the payload of a segment; None if it is gone."""
    with read_transaction(connection):
        if not connection.execute(_EXISTS, (vault_id, *segment.name)).rowcount:
            return None
        return StoredSegment(vault_id, segment.bounds, b"", segment.size, connection).fetch()


def erase(
    connection: Connection, vault_id: uuid.UUID, segments: Sequence[NamedSegment]
) -> tuple[int, int]:
    """Delete segments, in one transaction. Return the numbers of deleted segments and readings.

    A segment that no longer exists is skipped and not counted.
    """
    names = [segment.name for segment in segments]
    first_ids, received_mins, salts = (list(part) for part in zip(*names, strict=True))
    with transaction(connection):
        row = connection.execute(_ERASE, (vault_id, first_ids, received_mins, salts)).fetchone()
        connection.execute(_RESET)
    return cast("tuple[int, int]", row)


def replace(connection: Connection, old: NamedSegment, new: SealedSegment) -> bool:
    """Replace a segment by another, in one transaction. Return False if the old one is gone."""
    values = (new.vault_id, *old.name, list(astuple(new.bounds)), new.payload)
    with transaction(connection):
        row = connection.execute(_REPLACE, values).fetchone()
        connection.execute(_RESET)
    return cast("tuple[bool]", row)[0]
