"""Compaction in the history: small segments are found, and merged ones put in their place."""

import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import LiteralString, cast

from iot_cipher.sealed_segment import SealedSegment
from iot_models.compaction_order import Source
from iot_models.segment import SegmentBounds

from . import history
from .postgres import Connection

SMALL_READINGS = 512
"""A segment with fewer readings is small. Stands in the index `segments_small`, too."""
SMALL_BYTES = 65_536
"""One with so many bytes is not: its row and its places in indexes are little beside them."""

_FIND: LiteralString = """
    SELECT first_id, received_min, count, octet_length(payload)
    FROM segments
    WHERE vault_id = %(vault_id)s AND count < 512 AND received_min >= %(since)s
        AND received_max < %(before)s AND octet_length(payload) < %(bytes)s
    ORDER BY received_min LIMIT %(limit)s
"""
# Skipped is what another compaction, retention or an erasure is at.
_LOCK_VAULT = "SELECT FROM vaults WHERE vault_id = %s FOR KEY SHARE SKIP LOCKED"
# With the index of small segments for a plan that looks at no others.
_NAMED: LiteralString = """
    vault_id = %(vault_id)s AND received_min BETWEEN %(low)s AND %(high)s AND count < 512
    AND (first_id, received_min) IN
        (SELECT unnest(%(first_ids)s::int8[]), unnest(%(times)s::int8[]))
"""
_SELECT_NAMED: LiteralString = f"""
    SELECT first_id, last_id, received_min, received_max, relative_min, relative_max,
        interrogator_min, interrogator_max, shard, count, payload
    FROM segments WHERE {_NAMED}
"""  # noqa: S608 - put together from constants alone
_TAKE: LiteralString = f"{_SELECT_NAMED} FOR UPDATE OF segments SKIP LOCKED"
_FETCH: LiteralString = f"{_SELECT_NAMED} AND octet_length(payload) < %(bytes)s"
_SALTS: LiteralString = f"SELECT substring(payload FROM 2 FOR 16) FROM segments WHERE {_NAMED}"  # noqa: S608 - likewise
_DELETE: LiteralString = f"DELETE FROM segments WHERE {_NAMED}"  # noqa: S608 - likewise


SegmentName = tuple[int, int]
"""Of a segment within its vault: its first id and when it was received, at first."""


@dataclass(frozen=True, slots=True)
class SmallSegment:
    """What the database says of a small segment. Nothing vouches for it: it is not authenticated
    until the segment is opened.
    """

    first_id: int
    received_min: int
    count: int
    size: int
    """Of its payload, in bytes."""

    @property
    def name(self) -> SegmentName:
        """Its name within the vault."""
        return self.first_id, self.received_min


def find_small(
    connection: Connection, vault_id: uuid.UUID, *, since: int, before: int, limit: int
) -> list[SmallSegment]:
    """A vault's small segments, the oldest first: received from `since` on, all before `before`.

    Times are Unix milliseconds.
    """
    parameters = {
        "vault_id": vault_id, "since": since, "before": before, "bytes": SMALL_BYTES,
        "limit": limit,
    }  # fmt: skip
    rows = connection.execute(_FIND, parameters, binary=True)
    return [SmallSegment(*cast("tuple[int, int, int, int]", row)) for row in rows]


def fetch_small(
    connection: Connection, vault_id: uuid.UUID, named: Sequence[SegmentName]
) -> list[SealedSegment]:
    """Those of the named segments that are there and small, each less than `SMALL_BYTES`."""
    parameters = _parameters(vault_id, named) | {"bytes": SMALL_BYTES}
    return _segments(vault_id, connection.execute(_FETCH, parameters, binary=True))


def lock_segments(
    connection: Connection, vault_id: uuid.UUID, sources: Sequence[Source]
) -> list[SealedSegment]:
    """Those of the segments that are there, locked for the transaction that is open.

    None of them when the vault is not there any more, or is being erased. Waits for nobody's lock
    on a row: two that merge, retention and erasure can't be in each other's way for good.
    """
    if not connection.execute(_LOCK_VAULT, (vault_id,)).rowcount:
        return []
    named = [(each.first_id, each.received_min) for each in sources]
    return _segments(vault_id, connection.execute(_TAKE, _parameters(vault_id, named), binary=True))


def _segments(vault_id: uuid.UUID, rows: Iterable[tuple[object, ...]]) -> list[SealedSegment]:
    found = []
    for row in rows:
        *bounds, payload = cast("tuple[int, ...]", row)
        found.append(SealedSegment(vault_id, SegmentBounds(*bounds), cast("bytes", payload)))
    return found


def all_exist(connection: Connection, vault_id: uuid.UUID, sources: Sequence[Source]) -> bool:
    """Whether all sources of an order are still there, also those that are locked by others."""
    named = [(each.first_id, each.received_min) for each in sources]
    rows = connection.execute(_SALTS, _parameters(vault_id, named), binary=True)
    return {salt for (salt,) in rows} == {each.salt for each in sources}


def replace(
    connection: Connection, old: Sequence[SealedSegment], new: Iterable[SealedSegment]
) -> None:
    """Put segments in the place of others of the same vault, within the transaction that is open.

    Raises:
        RuntimeError: not all of the old ones were there; the transaction must not be committed.
    """
    named = [(each.bounds.first_id, each.bounds.received_min) for each in old]
    deleted = connection.execute(_DELETE, _parameters(old[0].vault_id, named)).rowcount
    if deleted != len(old):
        raise RuntimeError(f"{deleted} segments were deleted in the place of {len(old)}")
    history.insert(connection, new)


def _parameters(vault_id: uuid.UUID, named: Sequence[SegmentName]) -> dict[str, object]:
    first_ids, times = map(list, zip(*named, strict=True))
    return {
        "vault_id": vault_id, "first_ids": first_ids, "times": times,
        "low": min(times), "high": max(times),
    }  # fmt: skip
