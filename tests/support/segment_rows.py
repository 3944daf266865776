"""Readings and segments as rows, and their columns."""

from collections.abc import Iterable, Sequence

from iot_models.reading import SEPARATOR, ReadingColumns, int64s
from iot_models.segment import SegmentBounds, SegmentColumns

Row = tuple[int, int, int, int, str]
"""Interrogator timestamp, id, time of receipt, relative timestamp, freeform."""


def reading_columns(rows: Iterable[tuple[int, int, bytes]]) -> ReadingColumns:
    """Return the columns of readings: relative timestamp, interrogator timestamp, freeform."""
    rows = list(rows)
    return ReadingColumns(
        int64s([relative for relative, _, _ in rows]),
        int64s([interrogator for _, interrogator, _ in rows]),
        SEPARATOR.join(text for _, _, text in rows),
    )


def columns_of(rows: Sequence[Row]) -> SegmentColumns:
    """Return the columns of one or more rows."""
    interrogator, ids, received, relative, freeform = zip(*rows, strict=True)
    return SegmentColumns(ids, received, relative, interrogator, freeform)


def rows_of(columns: SegmentColumns) -> list[Row]:
    """Return the rows of columns."""
    return list(
        zip(columns.interrogator, columns.ids, columns.received, columns.relative, columns.freeform,
            strict=True)
    )  # fmt: skip


def assert_bounds(bounds: SegmentBounds, rows: Sequence[Row], *, shard: int) -> None:
    """Check the bounds of a segment with these rows."""
    assert (bounds.count, bounds.shard) == (len(rows), shard)
    for low, high, at in (
        (bounds.interrogator_min, bounds.interrogator_max, 0),
        (bounds.first_id, bounds.last_id, 1),
        (bounds.received_min, bounds.received_max, 2),
        (bounds.relative_min, bounds.relative_max, 3),
    ):
        assert low == min(row[at] for row in rows)
        assert high == max(row[at] for row in rows)
