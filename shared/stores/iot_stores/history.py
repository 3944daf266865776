"""The history: every segment, in Postgres, in monthly partitions by time of receipt."""

import uuid
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, LiteralString, cast

from iot_cipher.sealed_segment import SealedSegment
from iot_models.reading import INT64_MAX, INT64_MIN
from iot_models.segment import SegmentBounds

from .months import month_begin
from .postgres import Connection

_COLUMNS: LiteralString = (
    "first_id, last_id, received_min, received_max, relative_min, relative_max, "
    "interrogator_min, interrogator_max, shard, count"
)
_TYPES = ("uuid", *("int8",) * 8, "int2", "int4", "bytea")

_COPY: LiteralString = f"COPY segments (vault_id, {_COLUMNS}, payload) FROM STDIN (FORMAT BINARY)"

# Put together from the constants above alone; what comes from outside is a parameter.
_SELECT: LiteralString = f"SELECT {_COLUMNS}, payload FROM segments WHERE vault_id = %(vault_id)s"  # noqa: S608

_ALL: LiteralString = f"{_SELECT} ORDER BY interrogator_min, first_id"
# OFFSET 0 keeps the order out of the search: for its sake the planner would go through all of the
# vault in that order, and filter.
_BY_RELATIVE: LiteralString = (
    f"SELECT * FROM ({_SELECT} AND relative_max >= %(low)s AND relative_min <= %(high)s OFFSET 0) "  # noqa: S608
    "AS found ORDER BY interrogator_min, first_id"
)
# A segment lies within one month, so the month's begin bounds `received_min` and prunes.
_BY_RECEIVED: LiteralString = (
    f"SELECT * FROM ({_SELECT} AND received_max >= %(low)s AND received_min >= %(month)s OFFSET 0) "  # noqa: S608
    "AS found ORDER BY interrogator_min, first_id"
)
_LATEST: LiteralString = f"{_SELECT} ORDER BY interrogator_max DESC, last_id DESC"
_BY_ID: LiteralString = f"{_SELECT} AND first_id = %(first_id)s"

# Spelled as in the index that is made for it alone.
_MAXTIME = "SELECT max(relative_max + 0) FROM segments"
_COUNT = "SELECT coalesce(sum(count), 0)::int8 FROM segments WHERE vault_id = %s"
_VAULT_MAXTIME = "SELECT max(relative_max) FROM segments WHERE vault_id = %s"

FETCH_BYTES = 2 * 2**20
"""Ciphertext fetched ahead, about; what bounds the memory of a read."""
_FIRST_FETCH, _MOST_FETCH = 4, 512


Segments = Generator[SealedSegment, None, None]


@dataclass(frozen=True, slots=True)
class Question:
    """Which of a vault's readings are asked for: those with both times within the bounds."""

    relative_low: int = INT64_MIN
    relative_high: int = INT64_MAX
    received_low: int = 0
    """Unix milliseconds."""

    def meets(self, bounds: SegmentBounds) -> bool:
        """Whether a segment may hold such readings."""
        return (
            bounds.relative_max >= self.relative_low
            and bounds.relative_min <= self.relative_high
            and bounds.received_max >= self.received_low
        )

    def includes(self, bounds: SegmentBounds) -> bool:
        """Whether all of a segment's readings are such."""
        return (
            bounds.relative_min >= self.relative_low
            and bounds.relative_max <= self.relative_high
            and bounds.received_min >= self.received_low
        )


def insert(connection: Connection, segments: Iterable[SealedSegment]) -> None:
    """Add segments, within the transaction that is open."""
    with connection.cursor() as cursor, cursor.copy(_COPY) as copy:
        copy.set_types(_TYPES)
        for each in segments:
            bounds = each.bounds
            copy.write_row(
                (
                    each.vault_id, bounds.first_id, bounds.last_id,
                    bounds.received_min, bounds.received_max,
                    bounds.relative_min, bounds.relative_max,
                    bounds.interrogator_min, bounds.interrogator_max,
                    bounds.shard, bounds.count, each.payload,
                )
            )  # fmt: skip


def select(connection: Connection, vault_id: uuid.UUID, question: Question) -> Segments:
    """A vault's segments that may hold readings asked for, by (interrogator_min, first_id).

    All from one moment, fetched as one goes. Keeps a transaction open until it is exhausted or
    closed.
    """
    parameters: dict[str, object] = {"vault_id": vault_id}
    statement = _ALL
    if question.received_low > 0:
        statement = _BY_RECEIVED
        parameters |= {"low": question.received_low, "month": month_begin(question.received_low)}
    elif (question.relative_low, question.relative_high) != (INT64_MIN, INT64_MAX):
        statement = _BY_RELATIVE
        parameters |= {"low": question.relative_low, "high": question.relative_high}
    return _stream(connection, statement, parameters)


def select_latest(connection: Connection, vault_id: uuid.UUID) -> Segments:
    """A vault's segments from the one with the greatest interrogator time on down.

    As `select` does, it keeps a transaction open until it is exhausted or closed.
    """
    return _stream(connection, _LATEST, {"vault_id": vault_id})


def select_one(connection: Connection, vault_id: uuid.UUID, first_id: int) -> SealedSegment | None:
    """The segment that begins with this id."""
    parameters = {"vault_id": vault_id, "first_id": first_id}
    row = connection.execute(_BY_ID, parameters, binary=True).fetchone()
    return None if row is None else _segment(vault_id, row)


@contextmanager
def snapshot(connection: Connection) -> Iterator[None]:
    """A transaction in which everything is read as of one moment."""
    with connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        yield


def count(connection: Connection, vault_id: uuid.UUID) -> int:
    """How many readings a vault has."""
    row = connection.execute(_COUNT, (vault_id,)).fetchone()
    return cast("tuple[int]", row)[0]


def max_relative_timestamp(connection: Connection, vault_id: uuid.UUID | None = None) -> int | None:
    """The greatest relative timestamp stored, of all vaults or of one; None when there is none."""
    if vault_id is None:
        row = connection.execute(_MAXTIME).fetchone()
    else:
        row = connection.execute(_VAULT_MAXTIME, (vault_id,)).fetchone()
    return cast("tuple[int | None]", row)[0]


def _stream(
    connection: Connection, statement: LiteralString, parameters: dict[str, object]
) -> Segments:
    vault_id = cast("uuid.UUID", parameters["vault_id"])
    with connection.transaction(), connection.cursor("segments", binary=True) as cursor:
        cursor.execute(statement, parameters)
        ahead = _FIRST_FETCH
        while rows := cursor.fetchmany(ahead):
            held = sum(len(cast("bytes", row[-1])) for row in rows)
            ahead = max(1, min(_MOST_FETCH, FETCH_BYTES * len(rows) // max(held, 1), 2 * ahead))
            for row in rows:
                yield _segment(vault_id, row)


def _segment(vault_id: uuid.UUID, row: Sequence[Any]) -> SealedSegment:
    return SealedSegment(vault_id, SegmentBounds(*row[:-1]), row[-1])
