"""Compaction in the history: find small segments, and replace them by merged segments."""

import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import LiteralString, cast

from iot_cipher.encryption import SealedSegment
from iot_models.compaction_order import Source
from iot_models.segment import SegmentBounds

from . import history
from .postgres import Connection

SMALL_BYTES = 65_536
"""A segment is small if its payload has fewer bytes than this, and it has fewer than 512 readings.
Merging segments with larger payloads would save only rows and index entries."""

_FIND: LiteralString = """
    SELECT first_id, received_min, count, octet_length(payload)
    FROM segments
    WHERE vault_id = %(vault_id)s AND count < 512 AND received_min >= %(since)s
        AND received_max < %(before)s AND octet_length(payload) < %(bytes)s
    ORDER BY received_min LIMIT %(limit)s
"""
# SKIP LOCKED leaves out a vault that is being erased, and segments that another compaction or the
# retention has locked. Nobody waits for a lock, so there are no deadlocks.
_LOCK_VAULT = "SELECT FROM vaults WHERE vault_id = %s FOR KEY SHARE SKIP LOCKED"
# `count < 512` lets the planner use the index of small segments, which is much smaller than the
# others.
_NAMED: LiteralString = """
    vault_id = %(vault_id)s AND received_min BETWEEN %(low)s AND %(high)s AND count < 512
    AND (first_id, received_min) IN
        (SELECT unnest(%(first_ids)s::int8[]), unnest(%(times)s::int8[]))
"""
_SELECT_NAMED: LiteralString = f"""
    SELECT {history.COLUMNS}, payload FROM segments WHERE {_NAMED}
"""  # noqa: S608 - composed of constants
_LOCK_SEGMENTS: LiteralString = f"{_SELECT_NAMED} FOR UPDATE OF segments SKIP LOCKED"
_FETCH: LiteralString = f"{_SELECT_NAMED} AND octet_length(payload) < %(bytes)s"
_SALTS: LiteralString = f"SELECT substring(payload FROM 2 FOR 16) FROM segments WHERE {_NAMED}"  # noqa: S608 - composed of constants
_DELETE: LiteralString = f"DELETE FROM segments WHERE {_NAMED}"  # noqa: S608 - composed of constants

SegmentName = tuple[int, int]
"""Primary key of a segment within its vault: `first_id` and `received_min`."""


@dataclass(frozen=True, slots=True)
class SmallSegment:
    """A small segment as the database describes it.

    These values are not authenticated: somebody who can write to the database may have changed
    them. Decrypting the segment checks them.
    """

    first_id: int
    received_min: int
    count: int
    size: int
    """Bytes of the payload."""

    @property
    def name(self) -> SegmentName:
        """`first_id` and `received_min`, which identify the segment within its vault."""
        return self.first_id, self.received_min


def find_small(
    connection: Connection, vault_id: uuid.UUID, *, since: int, before: int, limit: int
) -> list[SmallSegment]:
    """Return up to `limit` small segments of a vault, the oldest first.

    All their readings were received at or after `since` and before `before`, in Unix milliseconds.
    """
    parameters = {
        "vault_id": vault_id, "since": since, "before": before, "bytes": SMALL_BYTES,
        "limit": limit,
    }  # fmt: skip
    rows = connection.execute(_FIND, parameters, binary=True)
    return [SmallSegment(*cast("tuple[int, int, int, int]", row)) for row in rows]


def fetch_small(
    connection: Connection, vault_id: uuid.UUID, names: Sequence[SegmentName]
) -> list[SealedSegment]:
    """Return the named segments that exist and are small."""
    parameters = _parameters(vault_id, names) | {"bytes": SMALL_BYTES}
    return _segments(vault_id, connection.execute(_FETCH, parameters, binary=True))


def lock_segments(
    connection: Connection, vault_id: uuid.UUID, sources: Sequence[Source]
) -> list[SealedSegment]:
    """Lock the segments that an order names, until the transaction ends. Return these segments.

    Do not wait for locks: segments that are gone or locked by others are left out. Return nothing
    if the vault is gone or is being erased.
    """
    if not connection.execute(_LOCK_VAULT, (vault_id,)).rowcount:
        return []
    parameters = _parameters(vault_id, _names(sources))
    return _segments(vault_id, connection.execute(_LOCK_SEGMENTS, parameters, binary=True))


def _segments(vault_id: uuid.UUID, rows: Iterable[tuple[object, ...]]) -> list[SealedSegment]:
    found = []
    for row in rows:
        *bounds, payload = cast("tuple[int, ...]", row)
        found.append(SealedSegment(vault_id, SegmentBounds(*bounds), cast("bytes", payload)))
    return found


def all_exist(connection: Connection, vault_id: uuid.UUID, sources: Sequence[Source]) -> bool:
    """Return whether all segments that an order names still exist, even if some are locked.

    Segments are compared by their salts: a segment with the same `first_id`, but with another salt,
    has replaced the named one.
    """
    rows = connection.execute(_SALTS, _parameters(vault_id, _names(sources)), binary=True)
    return {salt for (salt,) in rows} == {source.salt for source in sources}


def replace(
    connection: Connection, old: Sequence[SealedSegment], new: Iterable[SealedSegment]
) -> None:
    """Replace segments of a vault by others, in the open transaction.

    Raises:
        RuntimeError: some of the old segments do not exist; the transaction must not be committed.
    """
    names = [(segment.bounds.first_id, segment.bounds.received_min) for segment in old]
    deleted = connection.execute(_DELETE, _parameters(old[0].vault_id, names)).rowcount
    if deleted != len(old):
        raise RuntimeError(f"{len(old)} segments must be replaced, but only {deleted} exist")
    history.insert(connection, new)


def _names(sources: Sequence[Source]) -> list[SegmentName]:
    return [(source.first_id, source.received_min) for source in sources]


def _parameters(vault_id: uuid.UUID, names: Sequence[SegmentName]) -> dict[str, object]:
    first_ids, times = map(list, zip(*names, strict=True))
    return {
        "vault_id": vault_id, "first_ids": first_ids, "times": times,
        "low": min(times), "high": max(times),
    }  # fmt: skip
