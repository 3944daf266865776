"""The pages of an answer together equal the whole answer, even while data is stored."""

import dataclasses
import json
import os
import random
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import psycopg
import pytest
from redis import Redis
from werkzeug.test import TestResponse

from integration.api.asking import JSON, PASSWORD, Api, Row, assert_error, row, sample
from integration.api.conftest import MakeApi
from integration.api.test_reads import fill_at_random
from integration.compaction.past import Past, each_second, noon
from iot_api.query import merge as merge_module
from iot_api.query import paging
from iot_api.query import readings as readings_module
from iot_cipher.encryption import SealedSegment, decrypt_segment, encrypt_segment
from iot_models.segment import SegmentColumns, decode_segment
from iot_models.segment_encoding import encode_merged
from iot_stores import history, small_segments
from iot_stores.backlog import Backlog
from iot_stores.history import ReadFilter
from iot_writer.writer import Writer
from support.draining import drain_all

PATHS = ["", "/-3", "/-3/3", "/seconds/3600", "/last/40", "/last/1000", "/10/10", "/last/0"]
DAYS = "/seconds/800000"


def pages(api: Api, path: str, query: str = "", **first: Any) -> Iterator[list[Row]]:
    """Yield the pages of an answer."""
    asked = "&".join([*(f"{name}={value}" for name, value in first.items()), query])
    while True:
        answer = api.post(f"/api/iot{path}?{asked}")
        assert answer.status_code == 200, answer.text
        body = answer.get_json()
        assert list(body) == (["data", "cursor"] if "limit=" in asked else ["data"])
        yield body["data"]
        if body.get("cursor") is None:
            return
        limit = f"limit={first['limit']}&" if "limit" in first else ""
        asked = f"{limit}cursor={body['cursor']}"


def whole(api: Api, path: str, **first: Any) -> list[Row]:
    return [each for page in pages(api, path, **first) for each in page]


@pytest.fixture
def filled(module_api: Api, module_writer: Writer) -> Api:
    """Readings in overlapping segments, stored once for all tests of this module."""
    if not module_api.read():
        fill_at_random(module_api, module_writer, 3)
        chance = random.Random(4)
        for _ in range(6):
            module_api.put(
                [row(relative_time=chance.randint(-9, 9), interrogator_time=chance.randint(-9, 9))
                 for _ in range(9)]
            )  # fmt: skip
            drain_all(module_writer)
    return module_api


@pytest.mark.parametrize("max_buffered", [0, 2_000])
@pytest.mark.parametrize("path", PATHS)
def test_all_pages_are_the_complete_answer(
    filled: Api, path: str, max_buffered: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readings_module, "MAX_BUFFERED", max_buffered)
    wanted = filled.read(path)
    assert bool(wanted) == (path not in {"/10/10", "/last/0"})
    assert whole(filled, path, order="desc") == wanted[::-1]
    for limit in (3, 40, 10**18):
        assert whole(filled, path, limit=limit) == wanted, limit
        assert whole(filled, path, limit=limit, order="desc") == wanted[::-1], limit


def test_pages_of_one_reading(filled: Api) -> None:
    wanted = filled.read("/last/30")
    assert list(pages(filled, "/last/30", limit=1)) == [[each] for each in wanted]
    assert list(pages(filled, "/last/30", limit=1, order="desc")) == [
        [each] for each in wanted[::-1]
    ]


def test_pages_with_a_small_merge_buffer(filled: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages are correct with little memory."""
    wanted = filled.read()
    monkeypatch.setattr(merge_module, "BATCH", 5)
    for name in ("BUFFER_BYTES", "MIN_BYTES"):
        monkeypatch.setattr(readings_module, name, 2000)
    for order in ("asc", "desc"):
        rows = wanted if order == "asc" else wanted[::-1]
        assert whole(filled, "", order=order) == rows
        assert whole(filled, "", limit=30, order=order) == rows


def test_the_rest_can_be_read_without_a_limit(filled: Api) -> None:
    wanted = filled.read()
    first = filled.post("/api/iot?limit=5").get_json()
    rest = filled.post(f"/api/rssi?cursor={first['cursor']}").get_json()
    assert first["data"] + rest["data"] == wanted
    assert list(rest) == ["data"]


def test_without_a_limit_the_response_has_no_cursor(filled: Api) -> None:
    whole_answer = filled.post("/api/iot").data
    assert filled.post("/api/iot?order=asc").data == whole_answer
    assert filled.post("/api/iot?page=7&limits=3").data == whole_answer
    assert filled.post("/api/iot", "nobody").data == b'{"data":[]}\n'


def test_the_last_page_of_a_limited_read_says_that_it_is_the_last(filled: Api) -> None:
    whole_answer = filled.post("/api/iot").data
    assert filled.post("/api/iot?limit=1000000").data == whole_answer[:-2] + b',"cursor":null}\n'
    assert filled.post("/api/iot?limit=1", "nobody").data == b'{"data":[],"cursor":null}\n'
    assert filled.post("/api/iot/last/0?limit=1").data == b'{"data":[],"cursor":null}\n'


@pytest.mark.parametrize("limit", ["0", "-1", "x", "", "1.5", "1e3", "00", "٣", " 3"])
def test_an_invalid_limit_is_named(module_api: Api, limit: str) -> None:
    error = assert_error(module_api.post(f"/api/iot?limit={limit}"), 400, "invalid_request")
    assert (error["field"], error["error"]) == (
        "limit",
        "limit: must be an integer of at least 1",
    )
    assert "beyond 64 bits" in module_api.post(f"/api/iot?limit={2**63}").get_json()["error"]


@pytest.mark.parametrize("order", ["", "up", "DESC", "desc,asc"])
def test_an_invalid_order_is_named(module_api: Api, order: str) -> None:
    error = assert_error(module_api.post(f"/api/iot/5?order={order}"), 400, "invalid_request")
    assert (error["field"], error["error"]) == ("order", "order: must be asc or desc")


def test_a_cursor_is_refused_if_no_vault_has_the_password(
    make_api: MakeApi, writer: Writer
) -> None:
    """An empty last page would end a read that is not complete."""
    api = make_api()
    api.put([row(relative_time=n) for n in range(1, 6)])
    drain_all(writer)
    paths = ["", "/1", "/1/9", "/seconds/600", "/last/9"]
    cursors = {path: api.post(f"/api/iot{path}?limit=2").get_json()["cursor"] for path in paths}

    def next_page(path: str, password: str, cursor: str = "") -> TestResponse:
        return api.post(f"/api/iot{path}?limit=2&cursor={cursor or cursors[path]}", password)

    for path in paths:
        for cursor in (cursors[path], "garbage"):
            error = assert_error(next_page(path, "unknown", cursor), 400, "invalid_request")
            assert error["field"] == "cursor"
            assert "no vault has this password" in error["error"]
    body = json.dumps({"data": {"db_password": PASSWORD, "new_password": "new"}})
    assert api.ask("POST", "/api/vault/password", body, JSON).status_code == 200
    for path in paths:
        assert_error(next_page(path, PASSWORD), 400, "invalid_request")
        assert len(next_page(path, "new").get_json()["data"]) == 2
    body = json.dumps({"data": {"db_password": "new"}})
    assert api.ask("DELETE", "/api/vault", body, JSON).status_code == 200
    for path in paths:
        assert_error(next_page(path, "new"), 400, "invalid_request")


def test_a_cursor_is_refused_by_other_reads(filled: Api, module_writer: Writer) -> None:
    filled.put([row("other", interrogator_time=n) for n in range(9)])
    drain_all(module_writer)

    def cursor(path: str, password: str = PASSWORD) -> str:
        text: str = filled.post(f"/api/iot{path}", password).get_json()["cursor"]
        assert len(text) < 100
        assert text.replace("-", "").replace("_", "").isalnum()
        return text

    asked = [
        "?limit=2", "/-3?limit=2", "/-2?limit=2", "/-3/3?limit=2", "/-3/2?limit=2",
        "/seconds/80000?limit=2", "/seconds/80001?limit=2", "/last/9?limit=2", "/last/8?limit=2",
    ]  # fmt: skip
    cursors = {path: cursor(path) for path in asked}
    foreign = cursor("?limit=2", "other")
    for path in asked:
        for origin, text in [*cursors.items(), ("another vault", foreign)]:
            answer = filled.post(f"/api/iot{path}&cursor={text}")
            if origin == path:
                assert answer.status_code == 200
                continue
            error = assert_error(answer, 400, "invalid_request")
            assert error["field"] == "cursor"
            assert error["error"] == (
                "cursor: must be from an answer to the same call, with the same range and password"
            )
    text = cursors["?limit=2"]
    error = assert_error(filled.post(f"/api/iot?order=desc&cursor={text}"), 400, "invalid_request")
    assert error["error"] == (
        "cursor: is from a read in the other order; omit `order`, which the cursor has"
    )
    for wrong in (
        "",
        "x",
        text[:-1],
        text[:-4],
        text + "AAAA",
        "B" + text[1:],
        "é",
        "%00",
        "=" * 9,
    ):
        assert_error(filled.post(f"/api/iot?cursor={wrong}"), 400, "invalid_request")


def test_a_cursor_of_another_version_is_refused(
    filled: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paging, "VERSION", paging.VERSION + 1)
    cursor = filled.post("/api/iot?limit=2").get_json()["cursor"]
    monkeypatch.undo()
    assert_error(filled.post(f"/api/iot?limit=2&cursor={cursor}"), 400, "invalid_request")


@pytest.mark.parametrize("order", ["asc", "desc"])
@pytest.mark.parametrize("path", ["", "/0", "/0/399000000", DAYS, "/last/300"])
def test_pages_are_stable_while_segments_are_merged_and_readings_stored(
    past: Past, api: Api, writer: Writer, path: str, order: str
) -> None:
    """Readings stored before the first page appear once, in order. New readings may appear only
    after the current position.
    """
    sent = each_second(noon(2), 400)
    random.Random(5).shuffle(sent)
    past.store(b"p", sent, each=7)  # all segments overlap
    before = api.read(path)
    assert len(before) >= 299
    if order == "desc":
        before.reverse()
    read: list[Row] = []
    for number, page in enumerate(pages(api, path, limit=23, order=order)):
        read += page
        if number == 2:
            assert past.compact(b"p")
        if number % 3 == 1:
            moment, relative = sent[number][1] + 1, sent[number][2] + 1
            api.put(
                [row(interrogator_time=-1, relative_time=-1, freeform="new"),
                 row(interrogator_time=moment, relative_time=relative, freeform="new")]
            )  # fmt: skip
            drain_all(writer)
    old = [each for each in read if each["freeform"] != '"new"']
    assert old == before
    keys = [(each["interrogator_timestamp"], each["id"]) for each in read]
    assert keys == sorted(set(keys), reverse=order == "desc")


def test_the_window_is_the_one_of_the_first_page(
    api: Api, writer: Writer, redis: "Redis", monkeypatch: pytest.MonkeyPatch
) -> None:
    """Later pages keep readings that have since left the window, from both sources."""
    for begin in (0, 5, 10):
        api.put([row(interrogator_time=n, freeform=n) for n in range(begin, begin + 5)])
        drain_all(writer)
    wanted = api.read("/seconds/60")
    assert len(wanted) == 15
    monkeypatch.setattr("iot_stores.backlog.Backlog.drain_positions", _later(61_000))
    assert api.read("/seconds/60") == []
    monkeypatch.undo()
    read: list[Row] = []
    hot = []
    for number, page in enumerate(pages(api, "/seconds/60", limit=4)):
        read += page
        hot.append(sample("iot_reads_total", source="hot_window"))
        if number == 0:
            monkeypatch.setattr("iot_stores.backlog.Backlog.drain_positions", _later(61_000))
        if number == 1:
            redis.delete(*redis.keys("iot:hot:cover:*"))
    assert read == wanted
    assert hot == [hot[0], hot[0] + 1, hot[0] + 1, hot[0] + 1]


def _later(milliseconds: int) -> Any:
    """Return `Backlog.drain_positions` with a clock this many milliseconds ahead."""
    real = Backlog.drain_positions

    def drain_positions(backlog: Backlog, shards: Sequence[int]) -> Any:
        found = real(backlog, shards)
        return dataclasses.replace(found, now=found.now + milliseconds)

    return drain_positions


def test_reads_are_complete_during_drains(api: Api, writer: Writer, redis: "Redis") -> None:
    """A read of the last seconds returns each earlier reading once, whole or in pages.

    Meanwhile segments and coverage disappear from the hot window.
    """
    done = threading.Event()
    wrong: list[str] = []
    stored = 0

    def check(rows: list[Row], at_least: int, what: str) -> None:
        numbers = [int(each["freeform"]) for each in rows]
        if len(numbers) < at_least or numbers != list(range(len(numbers))):
            wrong.append(f"{what}: {len(numbers)} of {at_least}")

    def read() -> None:
        while not done.is_set():
            for path in ("/seconds/100", ""):
                at_least = stored
                check(api.read(path), at_least, path)
                at_least = stored
                check(whole(api, path, limit=41), at_least, f"{path} in parts")

    thread = threading.Thread(target=read)
    thread.start()
    chance = random.Random(6)
    try:
        for _ in range(60):
            count = chance.randint(1, 9)
            api.put([row(interrogator_time=n, freeform=n) for n in range(stored, stored + count)])
            drain_all(writer)
            stored += count
            keys = redis.keys("iot:hot:segment:*")
            if chance.random() < 0.3:
                redis.delete(chance.choice(sorted(keys)))
            if chance.random() < 0.1:
                redis.delete(*redis.keys("iot:hot:cover:*"))
    finally:
        done.set()
        thread.join()
    assert wrong == []


def test_readings_evicted_and_merged_during_a_read_appear_once(
    past: Past, api: Api, writer: Writer, redis: "Redis", postgres: psycopg.Connection
) -> None:
    """The index of the hot window names segments that the history no longer has."""
    for n in range(12):
        api.put([row(interrogator_time=n % 5, freeform=n)])
        drain_all(writer)
    wanted = api.read("/seconds/60")
    _merge_all(past)
    assert postgres.execute("SELECT count(*) FROM segments").fetchone() == (1,)
    assert api.read() == wanted
    keys = sorted(redis.keys("iot:hot:segment:*"))
    redis.delete(*keys[::3])
    for order in ("asc", "desc"):
        rows = wanted if order == "asc" else wanted[::-1]
        assert whole(api, "/seconds/60", order=order) == rows
        assert whole(api, "/seconds/60", limit=5, order=order) == rows


def _merge_all(past: Past) -> None:
    """Merge new segments, which compaction would leave alone for a while."""
    vault = past.sender.vault(b"p")
    connection = past.writer.postgres()
    old = list(history.select(connection, vault.vault_id, ReadFilter()))
    opened = [decode_segment(s.bounds, decrypt_segment(vault, s.bounds, s.payload)) for s in old]
    rows = sorted(
        values
        for each in opened
        for values in zip(
            each.interrogator, each.ids, each.received, each.relative, each.freeform, strict=True
        )
    )
    interrogator, ids, received, relative, freeform = map(list, zip(*rows, strict=True))
    columns = SegmentColumns(ids, received, relative, interrogator, freeform)
    bounds, content = encode_merged(columns, old[0].bounds.shard)
    salt = os.urandom(16)
    payload = encrypt_segment(vault.vault_id, salt, vault.chunk_key(salt), bounds, content)
    with connection.transaction():
        small_segments.replace(connection, old, [SealedSegment(vault.vault_id, bounds, payload)])
