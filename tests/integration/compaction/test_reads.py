"""Reads return the same readings before, during and after compaction."""

import json
import random
import threading
from collections.abc import Iterator
from itertools import chain

import pytest
from werkzeug.test import TestResponse

from integration.api.asking import JSON, Api, sample
from integration.compaction.past import Past, Sent, days_ago, each_second, noon
from iot_writer.compaction.compactor import CompactionOutcome
from iot_writer.writer import Writer
from support.draining import drain_all

PASSWORD = "p"
MANY = 52_000
"""More readings than `last/n` sorts in memory."""
DAY = 86_400


def _out_of_order(begin: int, number: int) -> list[Sent]:
    """Return readings whose interrogator timestamps jump, repeat and are extreme."""
    chance = random.Random(7)
    times = [
        chance.choice([-1, 5, chance.randrange(100), -(2**63), 2**63 - 1]) for _ in range(number)
    ]
    return [
        (begin + place * 400_000, moment, chance.randint(-9, number), f'"{place}"')
        for place, moment in enumerate(times)
    ]


@pytest.fixture
def mixed(past: Past) -> Past:
    """Small segments of several days, with one or more readings, and a large segment."""
    password = PASSWORD.encode()
    past.store(password, each_second(noon(40), 200))
    past.store(password, each_second(noon(9), 700), each=7)
    past.store(password, _out_of_order(noon(8), 500), each=3)
    past.store(password, each_second(noon(6), 900, seed=2), each=900)
    past.store(password, each_second(noon(2), 300, seed=3))
    return past


PATHS = (
    "", "/0", "/5000000", "/0/3000000", "/-9/400", "/7000000/100000000", "/seconds/1",
    f"/seconds/{3 * DAY}", f"/seconds/{7 * DAY}", f"/seconds/{50 * DAY}",
    "/last/1", "/last/100", "/last/1000", "/last/2599", "/last/2600", "/last/99999",
)  # fmt: skip


def _answers(api: Api) -> dict[str, object]:
    answers: dict[str, object] = {path: api.read(path, PASSWORD) for path in PATHS}
    answers["maxtime"] = api.ask("GET", "/api/iot/maxtime").get_json()
    answers["own maxtime"] = api.post("/api/iot/maxtime", PASSWORD).get_json()
    return answers


def test_reads_return_the_same_after_compaction(mixed: Past, api: Api) -> None:
    before = _answers(api)
    assert len(api.read("", PASSWORD)) == 2600
    assert mixed.compact(PASSWORD.encode())
    after = _answers(api)
    assert {path for path in before if before[path] != after[path]} == set()
    assert len(mixed.counts(PASSWORD.encode())) < 10


def test_last_n_beyond_the_sort_limit_is_the_same(past: Past, api: Api) -> None:
    past.store(PASSWORD.encode(), each_second(noon(3), MANY), each=100)
    before = api.post(f"/api/iot/last/{MANY - 1}", PASSWORD).data
    past.compact(PASSWORD.encode())
    assert len(past.counts(PASSWORD.encode())) <= 8
    assert api.post(f"/api/iot/last/{MANY - 1}", PASSWORD).data == before
    assert len(json.loads(before)["data"]) == MANY - 1


def _start_read(api: Api, path: str) -> tuple[bytes, Iterator[bytes], TestResponse]:
    """Return the first piece of an answer, the iterator of the rest and the response."""
    body = json.dumps({"data": {"db_password": PASSWORD}})
    answer = api.app.test_client().open(
        f"/api/iot{path}", method="POST", data=body, headers=JSON, buffered=False
    )
    pieces = iter(answer.iter_encoded())
    return next(pieces), pieces, answer


def _rows(body: bytes) -> list[object]:
    rows: list[object] = json.loads(body)["data"]
    return rows


def test_a_running_read_continues_while_segments_are_merged(past: Past, api: Api) -> None:
    password = PASSWORD.encode()
    past.store(password, each_second(noon(3), 30_000), each=40)
    paths = ("", "/0", f"/seconds/{5 * DAY}")
    before = {path: api.post(f"/api/iot{path}", PASSWORD).data for path in paths}
    begun = {path: _start_read(api, path) for path in paths}
    assert past.compact(password)
    past.store(password, each_second(noon(2), 100))
    for path, (first, pieces, answer) in begun.items():
        found = _rows(b"".join(chain([first], pieces)))
        answer.close()
        # A long read ends its transaction; its next transaction sees the new segments.
        expected = _rows(before[path])
        assert found[: len(expected)] == expected
        assert found == api.read(path, PASSWORD)[: len(found)]


def test_reads_are_exact_during_drains_and_compaction(
    past: Past, api: Api, other_writer: Writer
) -> None:
    """Each read returns every reading that was stored before the read, once and in order."""
    password = PASSWORD.encode()
    sent = each_second(noon(2), 2400)
    stored = 0
    done = threading.Event()
    wrong: list[str] = []

    def read() -> None:
        while not done.is_set():
            at_least = stored
            for path in ("", "/last/100000"):
                found = [row["freeform"] for row in api.read(path, PASSWORD)]
                if len(found) < at_least or found != [text for *_, text in sent[: len(found)]]:
                    wrong.append(f"{path}: {len(found)} of {at_least}")

    def merge() -> None:
        while not done.is_set():
            other_writer.compaction.run(other_writer.postgres())

    past.store(password, sent[:100])
    threads = [threading.Thread(target=target) for target in (read, merge)]
    for thread in threads:
        thread.start()
    for start in range(100, len(sent), 100):
        past.store(password, sent[start : start + 100])
        stored = start + 100
        past.look(password)
    done.set()
    for thread in threads:
        thread.join()
    past.compact(password)
    assert wrong == []
    assert len(past.counts(password)) < 100
    assert [row["freeform"] for row in api.read("", PASSWORD)] == [text for *_, text in sent]


def test_segments_of_the_hot_window_are_not_merged(past: Past, writer: Writer) -> None:
    for _ in range(100):
        past.sender.send(b"hot")
        drain_all(writer)
    # A second ago: the rest of the margin is time for a busy machine.
    just_left = days_ago(past.sender.settings.hot_window_seconds / DAY) - 1000
    past.store(b"hot", [(just_left - number, 7, 7, str(number)) for number in range(100)])
    assert past.look(b"hot") == 0
    assert past.work() == []
    past.store(b"hot", [(just_left - 600_000 - number, 7, 7, "1") for number in range(100)])
    assert past.look(b"hot") > 0
    assert set(past.work()) == {CompactionOutcome.MERGED}
    assert len(past.sender.last_seconds(b"hot", 200)) == 100


@pytest.mark.parametrize("path", ["", "/0", "?order=desc", f"/seconds/{9 * DAY}", "/last/350"])
def test_restored_sources_repeat_no_reading(
    past: Past, api: Api, caplog: pytest.LogCaptureFixture, path: str
) -> None:
    """Each reading appears once, and a log line reports the duplicate segments."""
    password = PASSWORD.encode()
    past.store(password, _out_of_order(noon(3), 400), each=3)
    before = api.read(path, PASSWORD)
    postgres = past.writer.postgres()
    postgres.execute("CREATE TEMP TABLE old AS SELECT * FROM segments")
    assert past.compact(password)
    assert api.read(path, PASSWORD) == before
    counted = sample("iot_damaged_total", what="overlap")
    put_back = postgres.execute("INSERT INTO segments SELECT * FROM old ON CONFLICT DO NOTHING")
    assert put_back.rowcount > 100
    assert api.read(path, PASSWORD) == before
    assert sample("iot_damaged_total", what="overlap") == counted + 1
    (told,) = [each for each in caplog.messages if "have ids in common" in each]
    assert str(past.sender.vault(password).vault_id) in told


def test_different_segments_with_common_ids_are_all_read(past: Past, api: Api) -> None:
    """A rolled-back database issues ids twice: all readings are returned."""
    password = PASSWORD.encode()
    past.store(password, each_second(noon(3), 50), each=50)
    past.restart_ids()
    past.store(password, each_second(noon(2), 50, seed=2), each=10)
    counted = sample("iot_damaged_total", what="overlap")
    assert len(api.read("", PASSWORD)) == 100
    assert sample("iot_damaged_total", what="overlap") == counted + 1


def test_segments_without_common_ids_are_not_reported(mixed: Past, api: Api) -> None:
    counted = sample("iot_damaged_total", what="overlap")
    for _ in range(2):
        assert len(api.read("", PASSWORD)) == 2600
        mixed.compact(PASSWORD.encode())
    assert sample("iot_damaged_total", what="overlap") == counted


def test_json_that_only_python_accepts_is_merged_unchanged(past: Past, api: Api) -> None:
    texts = ["NaN", '{"a": [Infinity, -Infinity]}', '"\\ud800"', '{"\\uDEAD": NaN}']
    begin = noon(3)
    past.store(
        PASSWORD.encode(), [(begin + n, n, n, texts[n % len(texts)]) for n in range(400)], each=3
    )
    before = api.read("", PASSWORD)
    assert [each["freeform"] for each in before] == texts * 100
    assert past.compact(PASSWORD.encode())
    assert api.read("", PASSWORD) == before
    assert [each["freeform"] for each in api.read("/last/4", PASSWORD)] == texts
