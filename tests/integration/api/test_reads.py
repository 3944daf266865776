"""The format and the order of readings in answers."""

import json
import random
import re
from operator import itemgetter

import pytest

from integration.api.asking import JSON, Api, Row, row
from iot_api.query import merge as merge_module
from iot_api.query import readings as readings_module
from iot_api.query import responses
from iot_writer.writer import Writer
from support.draining import drain_all


def test_the_fields_of_a_reading(api: Api, writer: Writer) -> None:
    texts = [
        '{"b": 1.50,  "a": [null, true]}',
        '"text \\u00e9 \\u0000 \\" \\\\"',
        "-0.0",
        "1e400",
        '""',
    ]
    rows = ", ".join(f'{{"data": {{"db_password": "p", "freeform": {text}}}}}' for text in texts)
    api.ask("PUT", "/api/iot", f"[{rows}]", JSON)
    drain_all(writer)
    read = api.read()
    assert [each["freeform"] for each in read] == texts
    for each in read:
        assert list(each) == [
            "absolute_timestamp",
            "freeform",
            "id",
            "interrogator_timestamp",
            "relative_timestamp",
        ]
        assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", each["absolute_timestamp"])
        assert 0 < each["id"] < 2**53
        assert (each["interrogator_timestamp"], each["relative_timestamp"]) == (-1, -1)


def test_non_ascii_text_is_escaped_as_in_the_old_server(api: Api, writer: Writer) -> None:
    body = '{"data": {"db_password": "pässword 😀", "freeform": "21 °C 😀"}}'
    api.ask("PUT", "/api/iot", body.encode(), JSON)
    drain_all(writer)
    (reading,) = api.read(password="pässword 😀")
    assert reading["freeform"] == '"21 \\u00b0C \\ud83d\\ude00"'


def test_times_in_the_formats_of_old_clients(api: Api, writer: Writer) -> None:
    forms: list[tuple[object, int]] = [
        (201, 201),
        ("201", 201),
        (13.9, 13),
        (-13.9, -13),
        ("13.9", 13),
        (1.763877e15, 1763877000000000),
        ("1.763877e+15", 1763877000000000),
        ("3/18/2014 10:59:19.123456 AM", 1395140359123456),
        ("2014-03-18T10:59:19.123456Z", 1395140359123456),
        ("2014-03-18T12:59:19.123456+02:00", 1395140359123456),
    ]
    api.put([row(interrogator_time=form, freeform=n) for n, (form, _) in enumerate(forms)])
    drain_all(writer)
    read = {int(each["freeform"]): each["interrogator_timestamp"] for each in api.read()}
    assert read == {n: micros for n, (_, micros) in enumerate(forms)}


def fill_at_random(api: Api, writer: Writer, seed: int) -> list[Row]:
    """Store readings in drains with overlapping, partly equal times; return the sent rows."""
    chance = random.Random(seed)
    sent: list[Row] = []
    for _ in range(12):
        for _ in range(chance.randint(1, 3)):
            rows = [
                row(interrogator_time=chance.randint(-5, 5), freeform=len(sent) + n)
                for n in range(chance.randint(1, 9))
            ]
            api.put(rows)
            sent += [each["data"] for each in rows]
        drain_all(writer)
    return sent


@pytest.mark.parametrize("seed", [1, 2])
def test_readings_of_overlapping_segments_are_ordered(
    api: Api, writer: Writer, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Readings are sorted by interrogator timestamp, then by arrival, which is the order of ids."""
    sent = fill_at_random(api, writer, seed)
    wanted = [each["freeform"] for each in sorted(sent, key=itemgetter("interrogator_time"))]
    read = api.read()
    assert [int(each["freeform"]) for each in read] == wanted
    assert read == sorted(read, key=itemgetter("interrogator_timestamp", "id"))
    arrived = sorted(read, key=itemgetter("id"))
    assert [int(each["freeform"]) for each in arrived] == list(range(len(sent)))
    assert api.read("/seconds/60") == read

    counts = [0, 1, 2, 7, len(read) // 2, len(read) - 1, len(read), len(read) + 1, 10**15]
    for max_buffered in (readings_module.MAX_BUFFERED, 0):
        monkeypatch.setattr(readings_module, "MAX_BUFFERED", max_buffered)
        for count in counts:
            assert api.read(f"/last/{count}") == read[max(0, len(read) - count) :]


@pytest.mark.parametrize("path", ["", "/last/10", "/seconds/3600"])
def test_an_abandoned_read_returns_a_usable_connection(
    api: Api, writer: Writer, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An abandoned read ends its transaction, so the pool need not replace the connection."""
    for number in range(12):
        api.put([row(interrogator_time=number)] * 3)
        drain_all(writer)
    monkeypatch.setattr(responses, "WHOLE_BYTES", 0)
    monkeypatch.setattr(merge_module, "BATCH", 1)
    monkeypatch.setattr(readings_module, "MAX_BUFFERED", 0)
    pool = api.service.pool
    for _ in range(3):
        answer = api.post(f"/api/iot{path}")
        assert next(iter(answer.response))
        answer.close()
        del answer
    assert len(api.read(path)) >= 10
    assert pool.get_stats().get("returns_bad", 0) == 0
    assert pool.get_stats()["connections_num"] == 1


def test_ids_are_stable(api: Api, writer: Writer) -> None:
    api.put([row(interrogator_time=5), row(interrogator_time=3)])
    drain_all(writer)
    before = api.read()
    api.put([row(interrogator_time=4)])
    drain_all(writer)
    after = api.read()
    assert [after[0], after[2]] == before
    assert len({each["id"] for each in after}) == 3


@pytest.mark.parametrize("prefix", ["/api/iot", "/api/rssi"])
def test_maxtime(api: Api, writer: Writer, prefix: str) -> None:
    def maxtime() -> tuple[object, object, object]:
        of_all = api.ask("GET", f"{prefix}/maxtime")
        of_one = api.post(f"{prefix}/maxtime", "one")
        of_nobody = api.post(f"{prefix}/maxtime", "nobody")
        found = []
        for answer in (of_all, of_one, of_nobody):
            assert answer.status_code == 200
            (only,) = json.loads(answer.data)["data"]
            assert list(only) == ["max_relative_timestamp"]
            found.append(only["max_relative_timestamp"])
        return found[0], found[1], found[2]

    assert maxtime() == (None, None, None)
    api.put([row("one", relative_time=5), row("one", relative_time=-9), row("two")])
    drain_all(writer)
    assert maxtime() == (5, 5, None)
    api.put(row("two", relative_time=9))
    drain_all(writer)
    assert maxtime() == (9, 5, None)


def test_a_negative_maxtime(api: Api, writer: Writer) -> None:
    api.put(row(relative_time=-5))
    drain_all(writer)
    assert api.post("/api/iot/maxtime").get_json() == {"data": [{"max_relative_timestamp": -5}]}
