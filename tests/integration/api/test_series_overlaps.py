"""Windows of a series over overlapping segments: each is opened once, each reading counts once."""

import random
from operator import attrgetter

import pytest

from integration.api.asking import Api
from integration.api.test_series import series
from integration.compaction.past import Past, Sent, each_second, noon
from iot_api.query import pausable_read, readings
from iot_api.query.timed_rows import TimedRows
from iot_api.query.unordered_read import UnorderedRead
from iot_stores.history import ReadFilter
from iot_stores.postgres import Connection

BEGIN = noon(3)
COUNT, EACH = 3000, 30


def shuffled(*, seed: int = 1) -> list[Sent]:
    """Return readings in an order of receipt that says nothing about their times."""
    sent = each_second(BEGIN, COUNT, seed=seed)
    received = [moment for moment, *_ in sent]
    random.Random(seed).shuffle(sent)
    return [
        (moment, at, relative, text)
        for moment, (_, at, relative, text) in zip(received, sent, strict=True)
    ]


@pytest.fixture
def overlapping(past: Past) -> Past:
    """100 segments that overlap: each begins near the first reading and ends near the last one."""
    past.store(b"p", shuffled(), each=EACH)
    return past


def rows_of(api: Api, step: str = "1m") -> list[dict[str, object]]:
    return series(
        api, "p", fields="rssi,phase", group="epc96", step=step, agg="last", by="interrogator"
    )


def test_each_segment_is_opened_once(
    overlapping: Past, api: Api, opened_segments: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An ordered read with so small a buffer opens them several times."""
    del overlapping
    monkeypatch.setattr(readings, "MIN_BYTES", 100_000)
    monkeypatch.setattr(readings, "BUFFER_BYTES", 100_000)
    (row,) = series(api, "p", step="365000d")
    assert row["count"] == COUNT
    assert len(opened_segments) == COUNT / EACH
    opened_segments.clear()
    assert len(series(api, "p")) == COUNT
    assert len(opened_segments) > 2 * COUNT / EACH


def test_no_turn_repeats_a_reading(
    overlapping: Past, api: Api, opened_segments: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A turn does not open the segments of earlier turns, although its range covers them."""
    del overlapping
    in_one_turn = rows_of(api)
    opened_segments.clear()
    monkeypatch.setattr(pausable_read, "SLICE_SECONDS", 0.0)
    monkeypatch.setattr(pausable_read, "TURN_SECONDS", 0.0)
    assert rows_of(api) == in_one_turn
    assert len(opened_segments) == COUNT / EACH


@pytest.mark.parametrize("turns_before", [1, 40, 99])
def test_a_compaction_between_two_turns_repeats_no_reading(
    overlapping: Past, turns_before: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pausable_read, "SLICE_SECONDS", 0.0)
    monkeypatch.setattr(pausable_read, "TURN_SECONDS", 0.0)
    read = overlapping.sender.service.readings.select(
        overlapping.sender.vault(b"p"),
        ReadFilter(),
        rows=TimedRows,
        combine=UnorderedRead(lambda _: None).combine,
    )
    found: list[int] = []
    for number, batch in enumerate(read, 1):
        found += map(attrgetter("id"), batch)
        if number == turns_before:
            read.pause()  # a slow compaction would outlast the timeouts of an open transaction
            assert overlapping.compact(b"p")
    assert len(found) == len(set(found)) == COUNT


@pytest.mark.parametrize("turn_seconds", [0.0, 3.0])
def test_restored_segments_count_once(
    overlapping: Past, api: Api, turn_seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = rows_of(api)
    postgres: Connection = overlapping.writer.postgres()
    postgres.execute("CREATE TEMP TABLE old AS SELECT * FROM segments")
    assert overlapping.compact(b"p")
    assert rows_of(api) == wanted
    put_back = postgres.execute("INSERT INTO segments SELECT * FROM old ON CONFLICT DO NOTHING")
    assert put_back.rowcount > 10
    monkeypatch.setattr(pausable_read, "SLICE_SECONDS", turn_seconds)
    monkeypatch.setattr(pausable_read, "TURN_SECONDS", turn_seconds)
    assert rows_of(api) == wanted
    assert sum(row["count"] for row in series(api, "p", step="1h")) == COUNT


def test_different_readings_with_one_id_count_each(overlapping: Past, api: Api) -> None:
    """A database that was rolled back issued ids twice."""
    overlapping.restart_ids()
    overlapping.store(b"p", shuffled(seed=2)[:100], each=10)
    assert sum(row["count"] for row in series(api, "p", step="1h")) == COUNT + 100


def test_ids_that_are_kept_are_charged(overlapping: Past, monkeypatch: pytest.MonkeyPatch) -> None:
    """Merged segments have ids with gaps, which are kept to find readings in two segments."""
    monkeypatch.setattr("iot_api.query.unordered_read._KEPT", 1)
    overlapping.store(b"q", shuffled(), each=EACH)
    assert overlapping.compact(b"p")
    charged: list[int] = []
    read = overlapping.sender.service.readings.select(
        overlapping.sender.vault(b"p"),
        ReadFilter(),
        rows=TimedRows,
        combine=UnorderedRead(charged.append).combine,
    )
    assert sum(map(len, read)) == COUNT
    assert sum(charged) > 8 * COUNT
