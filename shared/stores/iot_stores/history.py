"""The history: all segments, in Postgres, partitioned by month of receipt.

A read selects segments, not readings: Postgres knows only the bounds of a segment, since its
content is encrypted. Most of this file finds the segments of a page without reading the whole
vault.
"""

import logging
import uuid
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, LiteralString, cast

from psycopg.pq import TransactionStatus

from iot_cipher.encryption import SealedSegment
from iot_models import metrics
from iot_models.errors import FormatError
from iot_models.reading import INT64_MAX, INT64_MIN
from iot_models.segment import SegmentBounds

from .interval_index import REACH, Position, probes
from .months import month_begin
from .postgres import TIMEOUTS, Connection, rolled_back_if_open, short_query

COLUMNS: LiteralString = (
    "first_id, last_id, received_min, received_max, relative_min, relative_max, "
    "interrogator_min, interrogator_max, shard, count"
)
"""The columns of a segment's bounds, in the order of the fields of `SegmentBounds`."""
_TYPES = ("uuid", *("int8",) * 8, "int2", "int4", "bytea")

_COPY: LiteralString = f"COPY segments (vault_id, {COLUMNS}, payload) FROM STDIN (FORMAT BINARY)"

# A large payload is fetched when its segment is opened: one at a time, and in slices.
PAYLOAD: LiteralString = """octet_length(payload) AS size,
    CASE WHEN octet_length(payload) <= 1048576 THEN payload END AS payload"""
"""The columns that follow the bounds in a row for `stored_segment`."""
_LARGE_PAYLOAD = """
    SELECT substring(payload FROM %(from)s FOR %(bytes)s) FROM segments
    WHERE vault_id = %(vault_id)s AND interrogator_min = %(time)s AND first_id = %(id)s
        AND received_min = %(received)s
"""
_SLICE_BYTES = 2**20
_log = logging.getLogger(__name__)

# Composed of the constants above alone; all input is passed as parameters.
_SELECT: LiteralString = f"SELECT {COLUMNS}, {PAYLOAD} FROM segments WHERE vault_id = %(vault_id)s"  # noqa: S608

_RELATIVE: LiteralString = "AND relative_max >= %(low)s AND relative_min <= %(high)s"
# A segment lies within one month, so the start of the month prunes partitions.
_RECEIVED_SINCE: LiteralString = "AND received_max >= %(since)s AND received_min >= %(month)s"
_RECEIVED_UNTIL: LiteralString = "AND received_min <= %(received_until)s"

_BEGIN: LiteralString = "(interrogator_min, first_id)"
_END: LiteralString = "(interrogator_max, last_id)"
_POSITION: LiteralString = "(%(time)s, %(id)s)"
_UNTIL: LiteralString = "(%(until_time)s, %(until_id)s)"
# Parts of statements, by `descending`: the order; segments behind a position; segments that contain
# a position and have readings behind it; segments that are not behind the last position.
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

# The index for this query is on the expression `relative_max + 0`.
_MAXTIME = "SELECT max(relative_max + 0) FROM segments"
_VAULT_MAXTIME = "SELECT max(relative_max) FROM segments WHERE vault_id = %s"

# One message saves round trips.
_BEGIN_READ: LiteralString = f"BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY; {TIMEOUTS}"

FETCH_BYTES = 2 * 2**20
"""Approximate bytes of ciphertext that a read fetches at a time. Bounds the memory of a read."""
_FIRST_FETCH, _MAX_FETCH = 4, 512
_LOOK, _MAX_LOOK = 256, 5_000
"""Minimum and maximum number of segments that `_first_matching` tests in order."""


@dataclass(frozen=True, slots=True)
class StoredSegment(SealedSegment):
    """A segment of the history. A large payload is not in `payload`: `fetch` reads it."""

    size: int | None
    """Bytes of the payload; None if the selection does not want the payload of this segment."""
    connection: Connection = field(repr=False, compare=False)

    def fetch(self) -> bytes | bytearray:
        """Return the payload. If it is large, call this in the transaction that found the segment.

        Raises:
            FormatError: the segment was deleted meanwhile.
        """
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
                raise FormatError("a segment was deleted while it was read")
            payload += cast("bytes", row[0])
        return payload


Segments = Generator[SealedSegment, None, None]


@dataclass(frozen=True, slots=True)
class PageRange:
    """The part of a vault to read, and the direction."""

    after: Position | None = None
    """Begin behind this position; None: begin with the first reading in the order of the read."""
    until: Position | None = None
    """The last position to read. Needs `after`."""
    descending: bool = False
    limit: int | None = None
    """Approximate number of readings that the caller will use."""


@dataclass(frozen=True, slots=True)
class ReadFilter:
    """Bounds of the times of readings, inclusive."""

    relative_low: int = INT64_MIN
    relative_high: int = INT64_MAX
    received_low: int = 0
    """`received_low` and `received_high` are in Unix milliseconds."""
    received_high: int = INT64_MAX
    interrogator_low: int = INT64_MIN
    interrogator_high: int = INT64_MAX
    """`narrow` applies the two bounds of the interrogator timestamp; `admits` ignores them."""

    def includes(self, bounds: SegmentBounds) -> bool:
        """Return whether `admits` is true for all readings of a segment."""
        return (
            bounds.relative_min >= self.relative_low
            and bounds.relative_max <= self.relative_high
            and bounds.received_min >= self.received_low
            and bounds.received_max <= self.received_high
        )

    def admits(self, relative: int, received: int) -> bool:
        """Return whether a reading's relative timestamp and time of receipt are within the bounds.

        The interrogator timestamp is not checked: `narrow` applies its bounds.
        """
        return (
            self.relative_low <= relative <= self.relative_high
            and self.received_low <= received <= self.received_high
        )

    def may_match(self, bounds: SegmentBounds) -> bool:
        """Return whether readings of a segment may be within the bounds."""
        return (
            bounds.relative_max >= self.relative_low
            and bounds.relative_min <= self.relative_high
            and bounds.received_max >= self.received_low
            and bounds.received_min <= self.received_high
            and bounds.interrogator_max >= self.interrogator_low
            and bounds.interrogator_min <= self.interrogator_high
        )

    def narrow(self, page_range: PageRange) -> PageRange:
        """Return `page_range`, cut to the bounds of the interrogator timestamp.

        A position is (interrogator timestamp, id), so each of these bounds is also a bound of the
        position. Postgres finds the segments within the bounds with its index by position.
        """
        if (self.interrogator_low, self.interrogator_high) == (INT64_MIN, INT64_MAX):
            return page_range
        first, last = (self.interrogator_low, -1), (self.interrogator_high, 2**53)
        if page_range.descending:
            after = last if page_range.after is None else min(last, page_range.after)
            until = first if page_range.until is None else max(first, page_range.until)
        else:
            after = first if page_range.after is None else max(first, page_range.after)
            until = last if page_range.until is None else min(last, page_range.until)
        return replace(page_range, after=after, until=until)


def insert(connection: Connection, segments: Iterable[SealedSegment]) -> None:
    """Insert segments, in the open transaction."""
    with connection.cursor() as cursor, cursor.copy(_COPY) as copy:
        copy.set_types(_TYPES)
        for segment in segments:
            bounds = segment.bounds
            copy.write_row(
                (
                    segment.vault_id, bounds.first_id, bounds.last_id,
                    bounds.received_min, bounds.received_max,
                    bounds.relative_min, bounds.relative_max,
                    bounds.interrogator_min, bounds.interrogator_max,
                    bounds.shard, bounds.count, segment.payload,
                )
            )  # fmt: skip


def select(
    connection: Connection,
    vault_id: uuid.UUID,
    read_filter: ReadFilter,
    page_range: PageRange = PageRange(),
) -> Segments:
    """Yield the segments of a vault that may contain matching readings, ordered by their start.

    The start of a segment is (interrogator_min, first_id); if the order is descending, it is
    (interrogator_max, last_id). Segments that contain `page_range.after` come first, in any order.
    All segments are read from one snapshot, in steps; `StoredSegment.fetch` fetches a large
    payload. A transaction stays open until the generator is exhausted or closed.
    """
    page_range = read_filter.narrow(page_range)
    condition, parameters = _condition(read_filter)
    parameters["vault_id"] = vault_id
    if condition and page_range.limit is not None:
        with _cursors(connection):
            yield from _first_matching(connection, condition, parameters, page_range)
        return
    statement = _all(condition, descending=page_range.descending)
    if page_range.after is not None:
        statement = _from_position(condition, descending=page_range.descending)
        parameters |= _range_parameters(page_range, page_range.after)
    with _cursors(connection):
        yield from _stream(connection, statement, parameters)


def _first_matching(
    connection: Connection,
    condition: LiteralString,
    parameters: dict[str, object],
    page_range: PageRange,
) -> Segments:
    """Yield matching segments in order, in two steps.

    First, Postgres tests the next few hundred segments in order. If the caller needs more, Postgres
    selects and sorts all other matching segments. If nothing matches, the first step alone would
    read the whole vault for each page. If everything matches, the second step alone would sort the
    whole vault.
    """
    position = page_range.after or _LAST[not page_range.descending]
    look = min(max(_LOOK, 2 * (page_range.limit or 0)), _MAX_LOOK)
    parameters |= _range_parameters(page_range, position) | {"look": look}
    tried = 0
    for segment in _stream(
        connection, _try_in_order(condition, descending=page_range.descending), parameters
    ):
        begin = _begin(segment.bounds, descending=page_range.descending)
        if begin < position if page_range.descending else begin > position:
            tried, parameters["time"], parameters["id"] = tried + 1, *begin
        if segment.size is not None:
            yield segment
    if tried == look:
        rest = (
            f"{condition} AND {_BEHIND[page_range.descending]} AND {_UP_TO[page_range.descending]}"
        )
        statement = _all(rest, descending=page_range.descending)
        yield from _stream(connection, statement, parameters, "rest_of_segments")


def _begin(bounds: SegmentBounds, *, descending: bool) -> Position:
    if descending:
        return bounds.interrogator_max, bounds.last_id
    return bounds.interrogator_min, bounds.first_id


def _range_parameters(page_range: PageRange, position: Position) -> dict[str, object]:
    until = page_range.until or _LAST[page_range.descending]
    reaches, times, ids = probes(position)
    return {
        "time": position[0], "id": position[1], "until_time": until[0], "until_id": until[1],
        "reaches": reaches, "times": times, "ids": ids,
    }  # fmt: skip


def _condition(read_filter: ReadFilter) -> tuple[LiteralString, dict[str, object]]:
    conditions: list[LiteralString] = []
    parameters: dict[str, object] = {}
    if (read_filter.relative_low, read_filter.relative_high) != (INT64_MIN, INT64_MAX):
        conditions.append(_RELATIVE)
        parameters |= {"low": read_filter.relative_low, "high": read_filter.relative_high}
    if read_filter.received_low > 0:
        since = read_filter.received_low
        conditions.append(_RECEIVED_SINCE)
        parameters |= {"since": since, "month": month_begin(since)}
    if read_filter.received_high < INT64_MAX:
        conditions.append(_RECEIVED_UNTIL)
        parameters["received_until"] = read_filter.received_high
    return " ".join(conditions), parameters


@contextmanager
def read_transaction(connection: Connection) -> Iterator[None]:
    """Open a read-only transaction with one snapshot and its own timeouts.

    If a transaction is open already, use it.
    """
    if connection.info.transaction_status != TransactionStatus.IDLE:
        yield
        return
    connection.execute(_BEGIN_READ)
    with rolled_back_if_open(connection):
        yield


@contextmanager
def _cursors(connection: Connection) -> Iterator[None]:
    """Open a transaction like `read_transaction`, and close all cursors at the end of the block."""
    nested = connection.info.transaction_status != TransactionStatus.IDLE
    with read_transaction(connection):
        try:
            yield
        finally:
            if nested and connection.info.transaction_status == TransactionStatus.INTRANS:
                connection.execute("CLOSE ALL")


def max_relative_timestamp(connection: Connection, vault_id: uuid.UUID | None = None) -> int | None:
    """Return the greatest relative timestamp of a vault or of all vaults; None without readings."""
    if vault_id is None:
        row = short_query(connection, _MAXTIME).fetchone()
    else:
        row = short_query(connection, _VAULT_MAXTIME, (vault_id,)).fetchone()
    return cast("tuple[int | None]", row)[0]


def _all(condition: LiteralString, *, descending: bool) -> LiteralString:
    """Return the statement for all matching segments, sorted.

    OFFSET 0 is a fence: without it, the planner reads the whole vault in order and filters.
    """
    if not condition:
        return f"{_SELECT} {_ORDER[descending]}"
    return f"SELECT * FROM ({_SELECT} {condition} OFFSET 0) AS found {_ORDER[descending]}"  # noqa: S608


def _holding(condition: LiteralString, *, descending: bool) -> LiteralString:
    """Return the statement for the segments that contain the start of the page.

    `interrogator_min + 0` keeps the planner from using an index by start alone, with which it would
    read half of the vault.
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
    """Return the statement for the segments that contain the start of the page, then for all
    segments that follow in the order of the read.

    Postgres executes the parts of UNION ALL one after the other.
    """
    behind: LiteralString = (
        f"{_SELECT} {condition} AND {_BEHIND[descending]} AND {_UP_TO[descending]}"
    )
    return (
        f"({_holding(condition, descending=descending)}) UNION ALL ({behind} {_ORDER[descending]})"
    )


def _try_in_order(condition: LiteralString, *, descending: bool) -> LiteralString:
    """Return the statement for the segments that contain the start of the page, then for the next
    segments in the order of the read.

    The SQL parameter `look` is the maximum number of next segments. A next segment that does not
    match the condition has NULL as `size`.
    """
    behind: LiteralString = f"{_SELECT} AND {_BEHIND[descending]} AND {_UP_TO[descending]}"
    order = _ORDER[descending]
    return f"""
        ({_holding(condition, descending=descending)}) UNION ALL (
            SELECT {COLUMNS}, CASE WHEN true {condition} THEN size END, payload
            FROM ({behind} {order} LIMIT %(look)s) AS next {order}
        )
    """  # noqa: S608


def _stream(
    connection: Connection,
    statement: LiteralString,
    parameters: dict[str, object],
    cursor: LiteralString = "segments",
) -> Generator["StoredSegment", None, None]:
    """Yield the segments that a statement selects. `select` closes the cursor."""
    vault_id = cast("uuid.UUID", parameters["vault_id"])
    # A server-side cursor of psycopg costs two more round trips: a description of the rows before
    # the first row, and CLOSE although the transaction ends. Under load, each round trip of a read
    # waits for its turn among all requests of the process.
    connection.execute(f"DECLARE {cursor} NO SCROLL CURSOR FOR {statement}", parameters)
    ahead = _FIRST_FETCH
    while rows := _fetch(connection, cursor, ahead):
        size = sum(len(cast("bytes", row[-1] or b"")) for row in rows)
        ahead = max(1, min(_MAX_FETCH, FETCH_BYTES * len(rows) // max(size, 1), 8 * ahead))
        for row in rows:
            yield stored_segment(connection, vault_id, row)


def _fetch(connection: Connection, cursor: LiteralString, count: int) -> list[tuple[object, ...]]:
    return connection.execute(f"FETCH {count:d} FROM {cursor}", binary=True).fetchall()


def stored_segment(
    connection: Connection, vault_id: uuid.UUID, row: Sequence[Any]
) -> StoredSegment:
    """Return the segment of a row with `COLUMNS` and `PAYLOAD`."""
    *bounds, size, payload = row
    return StoredSegment(vault_id, SegmentBounds(*bounds), payload or b"", size, connection)


def note_damaged(vault_id: uuid.UUID, bounds: SegmentBounds) -> None:
    """Count and log a segment that can't be opened."""
    metrics.counter("iot_damaged_total").labels("segment").inc()
    _log.error("segment %d of vault %s can't be opened", bounds.first_id, vault_id)
