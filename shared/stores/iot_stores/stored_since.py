"""Segments of a vault that were stored after a position, in the order of their ids.

Postgres has an index by time of receipt, and none by id. So the search reads the bounds of all
segments received since `StoredAfter.since`, and the payloads of the few that have new ids.
"""

import uuid
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any, LiteralString, cast

from .history import COLUMNS, PAYLOAD, StoredSegment, stored_segment
from .months import month_begin
from .postgres import Connection

# The ids of a drain's segment are 256 apart. A merged segment may have readings of several shards,
# if IOT_SHARDS was changed.
_AFTER: LiteralString = """
    FROM segments LEFT JOIN unnest(%(shards)s::int2[], %(ids)s::int8[]) AS seen (shard, id)
        USING (shard)
    WHERE vault_id = %(vault_id)s AND received_max >= %(since)s AND received_min >= %(month)s
        AND last_id > CASE WHEN last_id - first_id = (count - 1) * 256
            THEN coalesce(seen.id, %(floor)s) ELSE %(lowest)s END
"""
_COUNT: LiteralString = f"""
    SELECT count(*), coalesce(sum(count), 0), coalesce(sum(octet_length(payload)), 0),
        coalesce(min(received_min), 0), coalesce(max(received_max), 0) {_AFTER}
"""
_SELECT: LiteralString = f"""
    SELECT {COLUMNS}, {PAYLOAD} {_AFTER} AND last_id > %(behind_id)s ORDER BY first_id
"""
_FETCH = 16


@dataclass(frozen=True, slots=True)
class StoredAfter:
    """A search for segments of a vault with readings that the caller does not know yet.

    A reading is unknown if its id is above the highest known id of its shard (`ids`).
    """

    vault_id: uuid.UUID
    since: int
    """Find only segments with readings received at or after this time, in Unix milliseconds."""
    ids: Mapping[int, int]
    """The highest known id of each shard."""
    floor: int
    """If `ids` has no item for a shard, this id counts as the shard's highest known id."""

    def parameters(self) -> dict[str, object]:
        """Return the parameters of the SQL statements."""
        return {
            "vault_id": self.vault_id,
            "since": self.since,
            "month": month_begin(self.since),
            "shards": list(self.ids),
            "ids": list(self.ids.values()),
            "floor": self.floor,
            "lowest": min(self.ids.values(), default=self.floor),
        }


@dataclass(frozen=True, slots=True)
class FoundSize:
    """The number and size of the segments that a search finds."""

    segments: int
    readings: int
    """Number of readings in the found segments, including readings that the caller knows
    already."""
    bytes: int
    received_min: int
    received_max: int


def measure(connection: Connection, search: StoredAfter) -> FoundSize:
    """Return the number and size of the segments that a search finds."""
    row = connection.execute(_COUNT, search.parameters()).fetchone()
    return FoundSize(*(int(value) for value in cast("tuple[Any, ...]", row)))


def stored_after(
    connection: Connection, search: StoredAfter, behind_id: int = 0
) -> Generator[StoredSegment, None, None]:
    """Yield the segments of a search with ids above `behind_id`, in the order of their first ids.

    A segment may also have lower ids, because compaction may have merged old segments with new
    ones. Needs an open transaction.
    """
    with connection.cursor("stored_after", binary=True) as cursor:
        cursor.execute(_SELECT, search.parameters() | {"behind_id": behind_id})
        while rows := cursor.fetchmany(_FETCH):
            for row in rows:
                yield stored_segment(connection, search.vault_id, cast("tuple[Any, ...]", row))
