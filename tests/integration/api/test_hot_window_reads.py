"""Reads of the last seconds return the same from the hot window and from Postgres."""

import dataclasses
import json
import random
import string
from typing import Any, cast
from weakref import ref as weakref

import psycopg
import pytest
from redis import Redis

from integration.api.asking import PASSWORD, Api, assert_error, row, sample
from integration.api.conftest import MakeApi
from iot_api.query import pausable_read
from iot_api.query.readings import NOBODY
from iot_models.segment import SegmentBounds
from iot_models.settings import Settings
from iot_stores import history, hot_window
from iot_stores.hot_window import HotWindow
from iot_writer.writer import Writer
from support.draining import drain_all


def source_of(api: Api, path: str) -> tuple[str, list[str]]:
    """Return the source of an answer and the texts of its readings."""
    before = {each: sample("iot_reads_total", source=each) for each in ("hot_window", "postgres")}
    texts = [each["freeform"] for each in api.read(path)]
    (source,) = (
        each for each, count in before.items() if sample("iot_reads_total", source=each) > count
    )
    return source, texts


def fill(api: Api, writer: Writer) -> list[str]:
    """Store readings in several segments; return the texts that a read returns."""
    for begin in (6, 3, 0):
        api.put([row(interrogator_time=n, freeform=n) for n in range(begin, begin + 4)])
        drain_all(writer)
    return ["0", "1", "2", "3", "3", "4", "5", "6", "6", "7", "8", "9"]


def uncover(redis: "Redis") -> None:
    """Delete the coverage, as if no window had been written."""
    redis.delete(*redis.keys("iot:hot:cover:*"))


def test_hot_window_and_postgres_return_the_same(api: Api, writer: Writer, redis: "Redis") -> None:
    texts = fill(api, writer)
    hot = api.post("/api/iot/seconds/60")
    assert source_of(api, "/seconds/60") == ("hot_window", texts)
    uncover(redis)
    assert source_of(api, "/seconds/60") == ("postgres", texts)
    assert hot.data == api.post("/api/iot/seconds/60").data


def test_without_a_hot_window_postgres_answers(
    make_api: MakeApi, settings: Settings, redis: "Redis"
) -> None:
    cold = dataclasses.replace(settings, hot_window_seconds=0)
    writer = Writer(cold)
    try:
        texts = fill(make_api(hot_window_seconds=0), writer)
    finally:
        writer.close()
    assert not redis.keys("iot:hot:*")
    assert source_of(make_api(hot_window_seconds=0), "/seconds/60") == ("postgres", texts)


def test_reads_beyond_the_window_come_from_postgres(api: Api, writer: Writer) -> None:
    fill(api, writer)
    assert [source_of(api, f"/seconds/{n}")[0] for n in (1, 290, 300, 3600)] == [
        "hot_window",
        "hot_window",
        "postgres",
        "postgres",
    ]


def test_a_window_that_was_never_written_covers_nothing(api: Api, writer: Writer) -> None:
    """A window without a write covers no time."""
    api.put(row())
    assert source_of(api, "/seconds/60") == ("postgres", [])
    drain_all(writer)
    assert source_of(api, "/seconds/60") == ("hot_window", ['""'])


def test_evicted_segments_come_from_postgres(
    api: Api, writer: Writer, redis: "Redis", monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also in the middle of a read, which continues behind the readings of its first batches."""
    monkeypatch.setattr("iot_api.query.merge.BATCH", 1)
    fill(api, writer)
    before = api.read("/seconds/60")
    found = cast("list[bytes]", redis.keys("iot:hot:segment:*"))
    keys = sorted(found, key=lambda key: int(key.rsplit(b":")[-1]))
    assert len(keys) == 3
    for key in keys:  # the end of the read first: it was stored first
        redis.delete(key)
        assert api.read("/seconds/60") == before
    assert source_of(api, "/seconds/60")[0] == "hot_window"


@pytest.mark.parametrize("order", ["asc", "desc"])
def test_pages_are_in_order_whatever_was_received_first(
    order: str, api: Api, writer: Writer
) -> None:
    for time in (10, 11, 20, 5, 15) if order == "asc" else (20, 19, 10, 25, 15):
        api.put(row(interrogator_time=time, freeform=f"{time:02}"))
        drain_all(writer)
    texts: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        page = json.loads(api.post(f"/api/iot/seconds/60?limit=1&order={order}{cursor}").data)
        texts += [each["freeform"] for each in page["data"]]
        cursor = page["cursor"] and f"&cursor={page['cursor']}"
    assert texts == sorted(texts, reverse=order == "desc")
    assert len(texts) == 5


def test_few_reads_fetch_segments_at_a_time(
    make_api: MakeApi, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of them keeps megabytes of payloads and readings."""
    monkeypatch.setattr(pausable_read, "HOT_WINDOW_SLOTS", 1)
    monkeypatch.setattr(pausable_read, "FIRST_TURN_SECONDS", 0.0)
    api = make_api()
    texts = fill(api, writer)
    vault = api.service.vaults.find_or_create(PASSWORD.encode(), NOBODY)
    other = api.service.readings.last_seconds(vault, 60)
    next(iter(other))
    assert_error(api.post("/api/iot/seconds/60"), 503, "unavailable")
    other.pause()
    assert source_of(api, "/seconds/60") == ("hot_window", texts)


def test_a_window_that_is_emptied_during_a_read_hides_nothing(
    api: Api, writer: Writer, redis: "Redis", monkeypatch: pytest.MonkeyPatch
) -> None:
    """For example, its own Redis restarts, once the read has found the window complete."""
    texts = fill(api, writer)
    readings = api.service.readings
    look = readings._coverage  # noqa: SLF001 - the step after which the window is emptied

    def look_and_empty(*arguments: Any) -> Any:
        found = look(*arguments)
        redis.delete(*redis.keys("iot:hot:*"))
        return found

    monkeypatch.setattr(readings, "_coverage", look_and_empty)
    assert [each["freeform"] for each in api.read("/seconds/60")] == texts


def test_a_payload_too_large_for_the_window_comes_from_postgres(
    api: Api, writer: Writer, redis: "Redis", monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = ["small", "".join(random.choices(string.ascii_letters, k=20_000))]
    monkeypatch.setattr(hot_window, "MAX_PAYLOAD_BYTES", 10_000)
    for number, text in enumerate(texts):
        api.put(row(interrogator_time=number, freeform=text))
        drain_all(writer)
    assert len(redis.keys("iot:hot:segment:*")) == 1
    assert source_of(api, "/seconds/60") == ("hot_window", [json.dumps(text) for text in texts])


def test_a_large_payload_is_kept_as_long_as_a_small_one(
    api: Api, writer: Writer, redis: "Redis"
) -> None:
    texts = ["small", "".join(random.choices(string.ascii_letters, k=20_000))]
    for number, text in enumerate(texts):
        api.put(row(interrogator_time=number, freeform=text))
        drain_all(writer)
    keys = redis.keys("iot:hot:segment:*")
    assert max(redis.strlen(key) for key in keys) > 10_000
    assert all(280 < redis.ttl(key) <= 300 for key in keys)
    assert source_of(api, "/seconds/60") == ("hot_window", [json.dumps(text) for text in texts])


def test_an_emptied_redis_covers_nothing(api: Api, writer: Writer, redis: "Redis") -> None:
    fill(api, writer)
    redis.flushall()
    assert len(source_of(api, "/seconds/60")[1]) == 12
    assert source_of(api, "/seconds/60")[0] == "postgres"
    api.put(row(interrogator_time=99, freeform="after"))
    drain_all(writer)
    texts = source_of(api, "/seconds/60")[1]
    assert (len(texts), texts[-1]) == (13, '"after"')


def test_a_drain_killed_before_the_window_write_leaves_no_gap(
    api: Api, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next window must not claim a segment that is in Postgres but not in Redis."""
    api.put(row(freeform="one"))
    drain_all(writer)
    api.put(row(freeform="two"))
    with monkeypatch.context() as patched:
        patched.setattr("iot_stores.hot_window.HotWindow.write", lambda *_, **__: None)
        drain_all(writer)
    api.put(row(freeform="three"))
    drain_all(writer)
    assert source_of(api, "/seconds/60") == ("postgres", ['"one"', '"two"', '"three"'])


def test_seconds_are_measured_from_receipt(
    api: Api, writer: Writer, redis: "Redis", postgres: psycopg.Connection
) -> None:
    """Of a segment that starts before the range, both sources return only the later readings."""
    api.put(row(interrogator_time=9, freeform="first"))
    receive_earlier(redis, 100)
    api.put(row(interrogator_time=1, freeform="second"))
    drain_all(writer)
    assert postgres.execute("SELECT count FROM segments").fetchall() == [(2,)]
    # The window starts with the first drain, because earlier drains are unknown.
    for begin in (0, None):
        if begin is None:
            uncover(redis)
        else:
            for cover in redis.keys("iot:hot:cover:*"):
                redis.hset(cover, "since", begin)
        source = "postgres" if begin is None else "hot_window"
        assert source_of(api, "/seconds/50") == (source, ['"second"'])
        assert source_of(api, "/seconds/150") == (source, ['"second"', '"first"'])


def receive_earlier(redis: "Redis", seconds: int) -> None:
    """Make the only waiting entry this many seconds older."""
    (stream,) = redis.keys("iot:ingest:*")
    now, _ = redis.time()
    ((_, fields),) = cast("list[tuple[bytes, Any]]", redis.xrange(stream))
    redis.delete(stream)
    redis.xadd(stream, fields, id=f"{(now - seconds) * 1000}-0")


@pytest.mark.parametrize("field", ["position", "since", "seconds", "index", "drained"])
def test_a_damaged_hot_window_is_not_used(
    field: str, api: Api, writer: Writer, redis: "Redis"
) -> None:
    texts = fill(api, writer)
    if field == "drained":
        redis.hset("iot:backlog", mapping={f"at:{n}": "?" for n in range(writer.settings.shards)})
    elif field == "index":
        (index,) = redis.keys("iot:hot:index:*")
        redis.zadd(index, {"?": 2.0**50})
    else:
        for cover in redis.keys("iot:hot:cover:*"):
            redis.hset(cover, field, b"\xff")
    assert source_of(api, "/seconds/60") == ("postgres", texts)


def damage(redis: "Redis", place: int) -> None:
    """Damage the segment at a place, in the order of the first ids."""
    key = sorted(redis.keys("iot:hot:segment:*"))[place]
    payload = bytearray(cast("bytes", redis.get(key)))
    payload[-1] ^= 1
    redis.set(key, bytes(payload))


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_damaged_hot_segment_comes_from_postgres(
    place: int, api: Api, writer: Writer, redis: "Redis"
) -> None:
    texts = fill(api, writer)
    damage(redis, place)
    before = sample("iot_damaged_total", what="segment")
    assert source_of(api, "/seconds/60") == ("hot_window", texts)
    assert sample("iot_damaged_total", what="segment") == before + 1


def test_a_read_that_continues_from_postgres_keeps_no_payloads_of_the_hot_window(
    api: Api, writer: Writer, redis: "Redis", monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fetched payloads may have megabytes, and the rest of the read may take long."""
    texts = fill(api, writer)
    damage(redis, 0)
    segments, select = HotWindow.segments, history.select
    fetches, kept = list["weakref[Any]"](), list[bool]()

    def noted(*arguments: Any) -> Any:
        fetch = segments(*arguments)
        fetches.append(weakref(fetch))
        return fetch

    def select_and_look(*arguments: Any) -> Any:
        kept.extend(getattr(fetch(), "gi_frame", None) is not None for fetch in fetches)
        return select(*arguments)

    monkeypatch.setattr(HotWindow, "segments", noted)
    monkeypatch.setattr(history, "select", select_and_look)
    assert source_of(api, "/seconds/60") == ("hot_window", texts)
    assert kept == [False]


def test_a_segment_under_another_name_is_never_returned(
    api: Api, writer: Writer, redis: "Redis"
) -> None:
    api.put([row("one", freeform="of one"), row("two", freeform="of two")])
    drain_all(writer)
    one, two = sorted(redis.keys("iot:hot:segment:*"))
    redis.rename(one, two)
    for password in ("one", "two"):
        (found,) = api.read("/seconds/60", password)
        assert found["freeform"] == f'"of {password}"'


def test_a_segment_with_the_first_id_of_a_lost_one(
    api: Api, writer: Writer, redis: "Redis"
) -> None:
    """Postgres lost a drain, and the next one stored its readings again, with others."""
    texts = fill(api, writer)
    (index,) = redis.keys("iot:hot:index:*")
    member, moment = cast("list[tuple[bytes, float]]", redis.zrange(index, 0, 0, withscores=True))[
        0
    ]
    bounds = SegmentBounds.from_bytes(member)
    lost = dataclasses.replace(bounds, last_id=bounds.first_id, count=1)
    redis.zadd(index, {lost.to_bytes(): moment})
    assert source_of(api, "/seconds/60") == ("hot_window", texts)
