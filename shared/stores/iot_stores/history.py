"""The history: every segment, in Postgres, in monthly partitions by time of receipt."""

import uuid
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, LiteralString, cast

import psycopg
from psycopg.pq import TransactionStatus

from iot_cipher.sealed_segment import SealedSegment
from iot_models.errors import FormatError
from iot_models.reading import INT64_MAX, INT64_MIN
from iot_models.segment import SegmentBounds

from .interval_index import REACH, Position, probes
from .months import month_begin
from .postgres import Connection, short_query

_COLUMNS: LiteralString = (
    "first_id, last_id, received_min, received_max, relative_min, relative_max, "
    "interrogator_min, interrogator_max, shard, count"
)
_TYPES = ("uuid", *("int8",) * 8, "int2", "int4", "bytea")

_COPY: LiteralString = f"COPY segments (vault_id, {_COLUMNS}, payload) FROM STDIN (FORMAT BINARY)"

# A large payload is fetched when its segment is opened: not several at a time, and in slices.
_PAYLOAD: LiteralString = """octet_length(payload) AS size,
    CASE WHEN octet_length(payload) <= 1048576 THEN payload END AS payload"""
_LARGE_PAYLOAD = """
    SELECT substring(payload FROM %(from)s FOR %(bytes)s) FROM segments
    WHERE vault_id = %(vault_id)s AND interrogator_min = %(time)s AND first_id = %(id)s
        AND received_min = %(received)s
"""
_SLICE_BYTES = 2**20

# Put together from the constants above alone; what comes from outside is a parameter.
_SELECT: LiteralString = (
    f"SELECT {_COLUMNS}, {_PAYLOAD} FROM segments WHERE vault_id = %(vault_id)s"  # noqa: S608
)

_RELATIVE: LiteralString = "relative_max >= %(low)s AND relative_min <= %(high)s"
# A segment lies within one month, so the month's begin bounds `received_min` and prunes.
_RECEIVED: LiteralString = "received_max >= %(since)s AND received_min >= %(month)s"

_BEGIN: LiteralString = "(interrogator_min, first_id)"
_END: LiteralString = "(interrogator_max, last_id)"
_POSITION: LiteralString = "(%(time)s, %(id)s)"
_UNTIL: LiteralString = "(%(until_time)s, %(until_id)s)"
# By direction, False for rising: the order, what lies behind a position, what of a segment that
# holds it lies behind it, and what does not lie behind the last position.
_ORDER: dict[bool, LiteralString] = {
    False: "ORDER BY interrogator_min, first_id",
    True: "ORDER BY interrogator_max DESC, last_id DESC",
}
_BEHIND: dict[bool, LiteralString] = {
    False: f"{_BEGIN} > {_POSITION}",
    True: f"{_END} < {_POSITION}",
}
_HOLDING: dict[bool, LiteralString] = {
    False: f"{_END} > {_POSITION}",
    True: f"{_END} >= {_POSITION} AND {_BEGIN} < {_POSITION}",
}
_UP_TO: dict[bool, LiteralString] = {
    False: f"{_BEGIN} <= {_UNTIL}",
    True: f"{_END} >= {_UNTIL}",
}
_LAST: dict[bool, Position] = {False: (INT64_MAX, 2**53 - 1), True: (INT64_MIN, 0)}

# Spelled as in the index that is made for it alone.
_MAXTIME = "SELECT max(relative_max + 0) FROM segments"
_VAULT_MAXTIME = "SELECT max(relative_max) FROM segments WHERE vault_id = %s"

# In one message, for the round trip. SET LOCAL, so that a pooler in transaction mode may stand
# between. A server that waits for a client that is gone, or hangs, gets its connection back.
_BEGIN_READ = """
    BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY;
    SET LOCAL statement_timeout = '30s';
    SET LOCAL idle_in_transaction_session_timeout = '10s'
"""

FETCH_BYTES = 2 * 2**20
"""Ciphertext fetched ahead, about; what bounds the memory of a read."""
_FIRST_FETCH, _MOST_FETCH = 4, 512
_LOOK, _MOST_LOOK = 256, 5_000
"""Segments looked through in order for a question that few of them may meet."""


@dataclass(frozen=True, slots=True)
class StoredSegment(SealedSegment):
    """A segment of the history. A large payload is empty here, and fetched when it is needed."""

    size: int | None
    """Of the payload, in bytes."""
    connection: Connection = field(repr=False, compare=False)

    def fetch(self) -> bytes | bytearray:
        """The payload. A large one only within the transaction that found the segment."""
        if self.payload or not self.size:
            return self.payload
        # In slices: libpq keeps a buffer as large as the largest row that it ever received.
        payload = bytearray()
        bounds = self.bounds
        parameters = {
            "vault_id": self.vault_id, "time": bounds.interrogator_min, "id": bounds.first_id,
            "received": bounds.received_min, "bytes": _SLICE_BYTES,
        }  # fmt: skip
        while len(payload) < self.size:
            parameters["from"] = len(payload) + 1
            row = self.connection.execute(_LARGE_PAYLOAD, parameters, binary=True).fetchone()
            if row is None or not row[0]:
                raise FormatError("a segment is gone")
            payload += cast("bytes", row[0])
        return payload


Segments = Generator[SealedSegment, None, None]


@dataclass(frozen=True, slots=True)
class PageRange:
    """Which part of an answer: from where on, up to where, in which direction."""

    after: Position | None = None
    """Begin behind this position; None: with the first."""
    until: Position | None = None
    """The last position; with `after` alone."""
    descending: bool = False
    few: int | None = None
    """That only about so many readings are going to be taken."""


@dataclass(frozen=True, slots=True)
class ReadFilter:
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


def select(
    connection: Connection,
    vault_id: uuid.UUID,
    read_filter: ReadFilter,
    span: PageRange = PageRange(),
) -> Segments:
    """A vault's segments that may hold readings asked for, in the order of their begins.

    That is by (interrogator_min, first_id) or, descending, by (interrogator_max, last_id) from the
    greatest on. Those that hold `span.after` come first, in any order. All from one moment, fetched
    as one goes; a large payload only when it is asked for (`StoredSegment.fetch`). Keeps a
    transaction open until it is exhausted or closed.
    """
    condition, parameters = _condition(read_filter)
    parameters["vault_id"] = vault_id
    if condition and span.few is not None:
        with read_transaction(connection):
            yield from _few(connection, condition, parameters, span)
        return
    statement = _all(condition, descending=span.descending)
    if span.after is not None:
        statement = _from_position(condition, descending=span.descending)
        parameters |= _part(span, span.after)
    with read_transaction(connection):
        yield from _stream(connection, statement, parameters)


def _few(
    connection: Connection, condition: LiteralString, parameters: dict[str, object], span: PageRange
) -> Segments:
    """Look through some hundreds of segments in order; if that is not enough, gather what meets the
    condition and put it in order. So neither many segments that don't meet it are gone through
    again and again, nor many that do.
    """
    position = span.after or _LAST[not span.descending]
    look = min(max(_LOOK, 2 * (span.few or 0)), _MOST_LOOK)
    parameters |= _part(span, position) | {"look": look}
    passed = 0
    for each in _stream(connection, _look(condition, descending=span.descending), parameters):
        begin = _begin(each.bounds, descending=span.descending)
        if begin < position if span.descending else begin > position:
            passed, parameters["time"], parameters["id"] = passed + 1, *begin
        if each.size is not None:
            yield each
    if passed == look:
        rest = f"{condition} AND {_BEHIND[span.descending]} AND {_UP_TO[span.descending]}"
        yield from _stream(connection, _all(rest, descending=span.descending), parameters)


def _begin(bounds: SegmentBounds, *, descending: bool) -> Position:
    if descending:
        return bounds.interrogator_max, bounds.last_id
    return bounds.interrogator_min, bounds.first_id


def _part(span: PageRange, position: Position) -> dict[str, object]:
    until = span.until or _LAST[span.descending]
    reaches, times, ids = probes(position)
    return {
        "time": position[0], "id": position[1], "until_time": until[0], "until_id": until[1],
        "reaches": reaches, "times": times, "ids": ids,
    }  # fmt: skip


def _condition(read_filter: ReadFilter) -> tuple[LiteralString, dict[str, object]]:
    if read_filter.received_low > 0:
        since = read_filter.received_low
        return f"AND {_RECEIVED}", {"since": since, "month": month_begin(since)}
    if (read_filter.relative_low, read_filter.relative_high) != (INT64_MIN, INT64_MAX):
        return f"AND {_RELATIVE}", {
            "low": read_filter.relative_low,
            "high": read_filter.relative_high,
        }
    return "", {}


@contextmanager
def read_transaction(connection: Connection) -> Iterator[None]:
    """A transaction in which everything is read as of one moment, with timeouts of its own.

    Within a transaction that is open already, it is that one.
    """
    if connection.info.transaction_status != TransactionStatus.IDLE:
        yield
        return
    connection.execute(_BEGIN_READ)
    try:
        yield
    finally:
        with suppress(psycopg.OperationalError):  # of a connection that is broken
            connection.rollback()


def max_relative_timestamp(connection: Connection, vault_id: uuid.UUID | None = None) -> int | None:
    """The greatest relative timestamp stored, of all vaults or of one; None when there is none."""
    if vault_id is None:
        row = short_query(connection, _MAXTIME).fetchone()
    else:
        row = short_query(connection, _VAULT_MAXTIME, (vault_id,)).fetchone()
    return cast("tuple[int | None]", row)[0]


def _all(condition: LiteralString, *, descending: bool) -> LiteralString:
    """From the first on. OFFSET 0 keeps the order out of the search: for its sake the planner would
    go through all of the vault in that order, and filter.
    """
    if not condition:
        return f"{_SELECT} {_ORDER[descending]}"
    return f"SELECT * FROM ({_SELECT} {condition} OFFSET 0) AS found {_ORDER[descending]}"  # noqa: S608


def _holding(condition: LiteralString, *, descending: bool) -> LiteralString:
    """The segments that hold the position, each found by its reach. Written so that the planner has
    no other index for it: by begin or end alone it would go through half of the vault.
    """
    return f"""
        SELECT found.* FROM
            unnest(%(reaches)s::int4[], %(times)s::int8[], %(ids)s::int8[]) AS probe (reach, t, i),
            LATERAL (
                {_SELECT} {condition} AND last_id > first_id AND {REACH} = probe.reach
                    AND (interrogator_min + 0, first_id) >= (probe.t, probe.i)
                    AND (interrogator_min + 0, first_id) <= {_POSITION} OFFSET 0
            ) AS found
        WHERE {_HOLDING[descending]}
    """  # noqa: S608


def _from_position(condition: LiteralString, *, descending: bool) -> LiteralString:
    """What holds the position, then what lies behind it: parts of UNION ALL come one by one."""
    behind: LiteralString = (
        f"{_SELECT} {condition} AND {_BEHIND[descending]} AND {_UP_TO[descending]}"
    )
    return (
        f"({_holding(condition, descending=descending)}) UNION ALL ({behind} {_ORDER[descending]})"
    )


def _look(condition: LiteralString, *, descending: bool) -> LiteralString:
    """As `_from_position`, but the next segments in order are there whether or not they meet the
    condition; those that don't have no payload.
    """
    behind: LiteralString = f"{_SELECT} AND {_BEHIND[descending]} AND {_UP_TO[descending]}"
    order = _ORDER[descending]
    return f"""
        ({_holding(condition, descending=descending)}) UNION ALL (
            SELECT {_COLUMNS}, CASE WHEN true {condition} THEN size END, payload
            FROM ({behind} {order} LIMIT %(look)s) AS next {order}
        )
    """  # noqa: S608


def _stream(
    connection: Connection, statement: LiteralString, parameters: dict[str, object]
) -> Generator["StoredSegment", None, None]:
    vault_id = cast("uuid.UUID", parameters["vault_id"])
    with connection.cursor("segments", binary=True) as cursor:
        cursor.execute(statement, parameters)
        ahead = _FIRST_FETCH
        while rows := cursor.fetchmany(ahead):
            held = sum(len(cast("bytes", row[-1] or b"")) for row in rows)
            ahead = max(1, min(_MOST_FETCH, FETCH_BYTES * len(rows) // max(held, 1), 8 * ahead))
            for row in rows:
                yield _segment(connection, vault_id, row)


def _segment(connection: Connection, vault_id: uuid.UUID, row: Sequence[Any]) -> StoredSegment:
    *bounds, size, payload = row
    return StoredSegment(vault_id, SegmentBounds(*bounds), payload or b"", size, connection)
