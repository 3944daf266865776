"""What a drain stores for the entries of a shard, and the months whose partitions it needs."""

import uuid
from array import array

from iot_cipher.encryption import Entry, OpenedEntry
from iot_models import metrics
from iot_models.reading import ReadingColumns
from iot_models.segment import ID_STRIDE
from iot_stores.ledger import Offset, SessionNumbers
from iot_stores.months import END_MS, month_begin
from iot_stores.stream_entries import ShardProgress, WaitingEntry
from iot_writer.drain.batch import Batch, BatchEntry, build_batch, raise_next_ids
from support.samples import sample_value

_MONTHS = [1_790_812_800_000, 1_793_491_200_000, 1_796_083_200_000, 1_798_761_600_000]
"""The starts of the months from October 2026 to January 2027."""
_VAULT = uuid.UUID(int=1)
_SESSION = bytes(16)
_BEFORE = Offset("0-0", 0, ID_STRIDE)


def _entry(received: int, imported: int | None = None, *, number: int = 1) -> BatchEntry:
    waiting = WaitingEntry(b"%d-0" % received, b"", 0, received)
    times = None if imported is None else array("q", [imported])
    readings = ReadingColumns(array("q", [0]), array("q", [0]), b"1", times)
    entry = Entry(_VAULT.bytes, bytes(16), bytes(32), 0, readings)
    return BatchEntry(waiting, OpenedEntry(_SESSION, number, b""), entry)


def _batch(entries: list[BatchEntry]) -> Batch:
    return Batch(0, [each.waiting for each in entries], entries)


def test_all_months_between_the_first_and_the_last_entry_count() -> None:
    """Without the partition of a month, Postgres refuses the whole drain."""
    assert [month_begin(each) for each in _MONTHS] == _MONTHS
    entries = [_entry(each + 1) for each in _MONTHS[:3]]
    assert _batch(entries).months() == set(_MONTHS[:3])
    assert _batch(entries[:1]).months() == set(_MONTHS[:1])


def test_the_months_of_imported_readings_count_too() -> None:
    entries = [_entry(_MONTHS[2] + 1, _MONTHS[0] + 1), _entry(_MONTHS[3] + 1)]
    assert _batch(entries).months() == {_MONTHS[0], _MONTHS[2], _MONTHS[3]}
    assert _batch(entries[:1]).months() == {_MONTHS[0], _MONTHS[2]}


def test_an_entry_of_an_erased_vault_is_dropped_and_counts_as_stored() -> None:
    """Otherwise clients would wait for it."""
    sessions = {(0, _SESSION): SessionNumbers()}
    batch = _batch([_entry(_MONTHS[0])])
    stored = build_batch(batch, _BEFORE, sessions, {_VAULT}, {_VAULT})
    assert (stored.erased, stored.repeated, stored.held, stored.segments) == (1, 0, [], [])
    assert stored.after.position == f"{_MONTHS[0]}-0"
    assert sessions[0, _SESSION].high == 1


def test_an_impossible_id_does_not_become_the_position() -> None:
    """All later positions would lie before it."""
    entries = [_entry(_MONTHS[0]), _entry(END_MS, number=2)]
    batch = Batch(0, [each.waiting for each in entries], entries[:1])
    stored = build_batch(batch, _BEFORE, {(0, _SESSION): SessionNumbers()}, set(), set())
    assert stored.after.position == f"{_MONTHS[0]}-0"


def test_a_restored_postgres_gives_no_id_a_second_time() -> None:
    """Postgres was restored to a moment before the last drain, which Redis still knows."""
    metrics.counter("iot_ledger_behind_total")
    own, later = 7 + ID_STRIDE, 7 + 2 * ID_STRIDE
    for position, next_id, behind in (("6-0", later, 1), ("5-0", 3, 0)):
        before = sample_value("iot_ledger_behind_total") or 0.0
        raised = raise_next_ids({7: Offset("5-0", 0, own)}, {7: ShardProgress(position, next_id)})
        assert raised == {7: Offset("5-0", 0, max(own, next_id))}
        assert sample_value("iot_ledger_behind_total") == before + behind


def test_a_planted_id_of_another_shard_is_not_used() -> None:
    """Two shards would give the same ids. The ledger may have saved such an id, too."""
    own, later = 7 + ID_STRIDE, 7 + 2 * ID_STRIDE
    for saved, planted in ((own, own + 1), (own + 1, 0)):
        raised = raise_next_ids({7: Offset("5-0", 0, saved)}, {7: ShardProgress("5-0", planted)})
        assert raised == {7: Offset("5-0", 0, later)}
