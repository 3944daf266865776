"""The months whose partitions a drain needs."""

from array import array

from iot_cipher.encryption import Entry, OpenedEntry
from iot_models.reading import ReadingColumns
from iot_stores.months import month_begin
from iot_stores.stream_entries import WaitingEntry
from iot_writer.drain.batch import Batch, BatchEntry

_MONTHS = [1_790_812_800_000, 1_793_491_200_000, 1_796_083_200_000, 1_798_761_600_000]
"""The starts of the months from October 2026 to January 2027."""


def _entry(received: int, imported: int | None = None) -> BatchEntry:
    waiting = WaitingEntry(b"%d-0" % received, b"", 0, received)
    times = None if imported is None else array("q", [imported])
    readings = ReadingColumns(array("q", [0]), array("q", [0]), b"1", times)
    return BatchEntry(waiting, OpenedEntry(b"", 1, b""), Entry(b"", b"", b"", 0, readings))


def test_all_months_between_the_first_and_the_last_entry_count() -> None:
    """Without the partition of a month, Postgres refuses the whole drain."""
    assert [month_begin(each) for each in _MONTHS] == _MONTHS
    entries = [_entry(each + 1) for each in _MONTHS[:3]]
    assert Batch(0, opened=entries).months() == set(_MONTHS[:3])
    assert Batch(0, opened=entries[:1]).months() == set(_MONTHS[:1])


def test_the_months_of_imported_readings_count_too() -> None:
    entries = [_entry(_MONTHS[2] + 1, _MONTHS[0] + 1), _entry(_MONTHS[3] + 1)]
    assert Batch(0, opened=entries).months() == {_MONTHS[0], _MONTHS[2], _MONTHS[3]}
    assert Batch(0, opened=entries[:1]).months() == {_MONTHS[0], _MONTHS[2]}
