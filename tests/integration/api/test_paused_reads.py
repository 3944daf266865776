"""A read that pauses between batches returns each reading once while data is stored and merged."""

import json
import random
from collections.abc import Callable
from itertools import cycle

import psycopg
import pytest
from redis import Redis

from integration.api.asking import Api, assert_error, row, sample
from integration.api.conftest import MakeApi
from integration.compaction.past import Past, each_second, noon
from iot_api.query import merge as merge_module
from iot_api.query import pausable_read, series_windows
from iot_api.query import readings as readings_module
from iot_api.query.hot_readings import Readings
from iot_api.query.merge import Order
from iot_api.query.pausable_read import Page, PausableRead
from iot_api.query.responses import ReadingsStream
from iot_cipher.encryption import OpenVault
from iot_models.reading import Reading
from iot_stores.history import ReadFilter
from iot_writer.writer import Writer
from support.draining import drain_all

PASSWORD = b"p"
Begin = Callable[[Readings, OpenVault, Page], PausableRead]
READS: dict[str, Begin] = {
    "all": lambda readings, vault, page: readings.select(vault, ReadFilter(), page),
    "from": lambda readings, vault, page: readings.select(vault, ReadFilter(relative_low=0), page),
    "days": lambda readings, vault, page: readings.last_seconds(vault, 800_000, page),
    "last 300": lambda readings, vault, page: readings.latest(vault, 300, page),
    "all by last": lambda readings, vault, page: readings.latest(vault, 1000, page),
}
PAGES = {
    "asc": Page(),
    "desc": Page(descending=True),
    "limit": Page(limit=250),
    "limit desc": Page(limit=250, descending=True),
}


@pytest.fixture(params=[0, 2000], ids=["streamed", "held"])
def max_buffered(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """The number of readings that a read sorts in memory; batches are small.

    A pause looks for the end of a page for as long as it takes.
    """
    monkeypatch.setattr(readings_module, "END_SECONDS", 600)
    monkeypatch.setattr(merge_module, "BATCH", 20)
    monkeypatch.setattr(readings_module, "BATCH", 20)
    monkeypatch.setattr(readings_module, "MAX_BUFFERED", request.param)
    return int(request.param)


def all_of(read: PausableRead) -> list[Reading]:
    return [reading for batch in read for reading in batch]


@pytest.mark.usefixtures("max_buffered")
@pytest.mark.parametrize("page", PAGES.values(), ids=PAGES)
@pytest.mark.parametrize("begin", READS.values(), ids=READS)
def test_paused_reads_are_complete_while_segments_are_merged_and_readings_stored(
    past: Past, api: Api, writer: Writer, begin: Begin, page: Page
) -> None:
    sent = each_second(noon(2), 400)
    random.Random(5).shuffle(sent)
    past.store(PASSWORD, sent, each=7)  # all segments overlap
    readings, vault = past.sender.service.readings, past.sender.vault(PASSWORD)
    wanted = all_of(begin(readings, vault, page))
    assert len(wanted) == min(page.limit or 400, len(wanted))
    read = begin(readings, vault, page)
    given: list[Reading] = []
    used = cycle([None, 3, 0, None])
    for number, batch in enumerate(read):
        part = next(used)
        given += batch[:part]
        read.pause(part)
        read.pause(part)
        if number == 2:
            assert past.compact(PASSWORD)
        if number % 5 == 1:
            moment, relative = sent[number][1] + 1, sent[number][2] + 1
            api.put([row(interrogator_time=moment, relative_time=relative, freeform="new")])
            drain_all(writer)
    keys = [(each.interrogator_timestamp, each.id) for each in given]
    assert keys == sorted(set(keys), reverse=page.descending)
    old = [each for each in given if each.freeform != '"new"']
    assert old == wanted[: len(old)]
    if page.limit is None:
        assert old == wanted
    else:
        assert len(given) == len(wanted)


def test_a_paused_read_holds_no_connection(
    past: Past, postgres: psycopg.Connection, max_buffered: int
) -> None:
    del max_buffered
    past.store(PASSWORD, each_second(noon(2), 400), each=100)
    read = past.sender.service.readings.select(past.sender.vault(PASSWORD), ReadFilter())
    batches = iter(read)
    next(batches)

    def open_transactions() -> object:
        row = postgres.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE xact_start IS NOT NULL"
            " AND application_name = 'iot-api' AND datname = current_database()"
        ).fetchone()
        assert row is not None
        return row[0]

    assert open_transactions() == 1
    read.pause()
    assert open_transactions() == 0
    assert len(list(batches)) > 1


def test_a_refused_series_releases_its_slot(
    past: Past, make_api: MakeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(series_windows, "MAX_VALUES", 10)
    monkeypatch.setattr(series_windows, "_PENDING", 10)
    monkeypatch.setattr(pausable_read, "FIRST_TURN_SECONDS", 0.1)
    past.store(PASSWORD, each_second(noon(2), 400), each=100)
    api = make_api(api_postgres_pool=2)  # with a single slot for reads
    for _ in range(2):
        answer = api.post("/api/iot/series?step=1s&by=interrogator&fields=rssi")
        assert_error(answer, 400, "invalid_request")


def test_the_last_readings_open_no_earlier_segments(
    past: Past, opened_segments: list[int], max_buffered: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each turn ends behind its first batch, the last one behind the last reading."""
    del max_buffered
    monkeypatch.setattr(pausable_read, "SLICE_SECONDS", -1.0)
    monkeypatch.setattr(pausable_read, "TURN_SECONDS", -1.0)
    past.store(PASSWORD, each_second(noon(2), 300))
    read = past.sender.service.readings.latest(past.sender.vault(PASSWORD), 40)
    assert len(all_of(read)) == 40
    assert len(opened_segments) < 150


def test_a_pause_does_not_open_the_rest_of_a_long_read(
    past: Past, opened_segments: list[int], max_buffered: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    del max_buffered
    monkeypatch.setattr(readings_module, "END_SECONDS", -1)
    past.store(PASSWORD, each_second(noon(2), 300))
    readings, vault = past.sender.service.readings, past.sender.vault(PASSWORD)
    wanted = all_of(readings.latest(vault, 250, Page(descending=True)))
    read = readings.latest(vault, 250, Page(descending=True))
    batches = iter(read)
    given = [*next(batches)]
    opened = len(opened_segments)
    read.pause()
    assert len(opened_segments) < opened + 50
    for batch in batches:
        given += batch
    assert given == wanted
    assert len(given) == 250


def test_a_read_of_the_hot_window_can_be_paused(
    api: Api, writer: Writer, redis: "Redis", past: Past, max_buffered: int
) -> None:
    """The read continues from the hot window, then from Postgres when the coverage is gone."""
    del max_buffered
    for begin in range(0, 200, 40):
        api.put([row("p", interrogator_time=n, freeform=n) for n in range(begin, begin + 40)])
        drain_all(writer)
    before = sample("iot_reads_total", source="hot_window")
    read = past.sender.service.readings.last_seconds(past.sender.vault(PASSWORD), 60)
    given: list[str] = []
    for number, batch in enumerate(read):
        given += [each.freeform for each in batch]
        read.pause()
        if number == 1:
            redis.delete(*redis.keys("iot:hot:cover:*"))
    assert given == [str(n) for n in range(200)]
    assert sample("iot_reads_total", source="hot_window") == before + 1


@pytest.mark.parametrize("size", [100, 400_000])
def test_a_response_can_be_paused_anywhere(past: Past, max_buffered: int, size: int) -> None:
    """A pause is possible within a text that is sent in several pieces."""
    del max_buffered
    texts = [json.dumps('"\\é' * (size // 8) + str(n)) for n in range(4)]
    past.store(PASSWORD, [(noon(2), n, n, text) for n, text in enumerate(texts)], each=2)
    readings, vault = past.sender.service.readings, past.sender.vault(PASSWORD)
    whole = b"".join(ReadingsStream(readings.select(vault, ReadFilter())).pieces())
    assert [each["freeform"] for each in json.loads(whole)["data"]] == texts
    stream = ReadingsStream(readings.select(vault, ReadFilter()))
    paused = b""
    for piece in stream.pieces():
        assert len(piece) < 600_000
        paused += piece
        stream.pause()
    assert paused == whole


@pytest.mark.parametrize("page", [PAGES["asc"], PAGES["desc"]], ids=["asc", "desc"])
@pytest.mark.parametrize("begin", [READS["all"], READS["last 300"]], ids=["all", "last 300"])
def test_readings_may_be_stored_before_a_text_that_is_partly_sent(
    past: Past, max_buffered: int, begin: Begin, page: Page
) -> None:
    del max_buffered
    texts = {0: "short", 10: "x" * 300_000, 20: "short", 30: "x" * 300_000}
    past.store(PASSWORD, [(noon(2), at, at, json.dumps(texts[at])) for at in texts], each=4)
    readings, vault = past.sender.service.readings, past.sender.vault(PASSWORD)
    whole = b"".join(ReadingsStream(begin(readings, vault, page)).pieces())
    stream = ReadingsStream(begin(readings, vault, page))
    times = iter([31, 31, 11, 11] if page.descending else [9, 9, 29, 29])
    paused = b""
    for piece in stream.pieces():
        paused += piece
        if piece.endswith(b"x"):
            stream.pause()
            past.store(PASSWORD, [(noon(2), next(times), 0, '"new"')])
    assert paused == whole
    assert next(times, None) is None


@pytest.mark.parametrize("overlapping", [False, True])
@pytest.mark.parametrize("order", ["asc", "desc"])
def test_a_scan_without_results_takes_several_turns(
    api: Api, writer: Writer, monkeypatch: pytest.MonkeyPatch, order: str, overlapping: bool
) -> None:
    """Each segment may hold readings of the window, but only two of sixty do."""
    for number in range(60):
        times = (0, 500 if number in {20, 50} else 1, 10**9)
        spread = 10**6 if overlapping else 1
        api.put(
            [
                row(relative_time=time, interrogator_time=10 * number + place * spread)
                for place, time in enumerate(times)
            ]
        )
        drain_all(writer)
    expected = api.read(f"/400/600?order={order}")
    assert len(expected) == 2
    ended: list[int] = []
    just_before = Order.just_before

    def counted(self: Order, key: tuple[int, int]) -> tuple[int, int]:
        ended.append(1)
        return just_before(self, key)

    monkeypatch.setattr(Order, "just_before", counted)
    monkeypatch.setattr(pausable_read, "SLICE_SECONDS", -1.0)
    monkeypatch.setattr(pausable_read, "TURN_SECONDS", -1.0)
    assert api.read(f"/400/600?order={order}") == expected
    assert api.read(f"/400/600?order={order}&limit=1") == expected[:1]
    assert api.read("/600/700") == []
    # For any overlap, a scan visits at most about twice the number of segments.
    assert 3 <= len(ended) <= 3 * 60
