"""An erased window of relative time: exactly its readings are gone, everywhere and for good."""

import json
import random
import uuid
from typing import Any

import psycopg
import pytest
from redis import Redis
from redis.exceptions import ConnectionError  # noqa: A004 - redis-py's own
from werkzeug.test import TestResponse

from integration.api.asking import JSON, PASSWORD, Api, Row, assert_error, row, sample
from integration.api.conftest import MakeApi
from integration.compaction.past import Past, each_second, noon
from integration.writer.sending import sending
from iot_cipher.encryption import SealedSegment
from iot_models.settings import Settings
from iot_stores import segment_erasure
from iot_stores.hot_window import HotWindow
from iot_stores.segment_erasure import NamedSegment
from iot_tools.local.redis_server import RedisServer
from iot_writer.compaction.compactor import CompactionOutcome
from iot_writer.writer import Writer
from support.draining import drain_all, read_waiting
from support.keys import KEYS
from support.waiting import wait_until

COUNT = "SELECT count(*) FROM segments"


def erase(api: Api, start: object, end: object, password: object = PASSWORD) -> TestResponse:
    """Send the erasure of a window."""
    body = json.dumps({"data": {"db_password": password}})
    return api.ask("DELETE", f"/api/iot/{start}/{end}", body, JSON)


def erased(api: Api, start: object, end: object, password: object = PASSWORD) -> int:
    """Erase a window, and return the number of readings."""
    answer = erase(api, start, end, password)
    assert answer.status_code == 200, answer.text
    count: int = answer.get_json()["erased"]
    return count


def outside(rows: list[Row], low: int, high: int) -> list[Row]:
    return [each for each in rows if not low <= each["relative_timestamp"] <= high]


def store(api: Api, writer: Writer, times: list[int], **data: Any) -> None:
    """Store readings with these relative times in one segment."""
    rows = [row(relative_time=at, interrogator_time=at, freeform=at, **data) for at in times]
    assert api.put(rows).status_code == 201
    drain_all(writer)


@pytest.mark.parametrize("prefix", ["iot", "rssi"])
def test_exactly_the_readings_of_the_window_are_erased(
    make_api: MakeApi, writer: Writer, postgres: psycopg.Connection, prefix: str
) -> None:
    api = make_api()
    for start in (0, 20, 40, 60, 80):
        store(api, writer, list(range(start, start + 20)))
    api.put(row("another", relative_time=50))
    drain_all(writer)
    before = api.read()
    segments = postgres.execute(COUNT).fetchone()
    body = json.dumps({"data": {"db_password": PASSWORD}})
    answer = api.ask("DELETE", f"/api/{prefix}/30/65", body, JSON)
    assert (answer.status_code, answer.get_json()) == (200, {"erased": 36})
    kept = outside(before, 30, 65)
    for process in (api, make_api()):
        assert process.read() == kept  # with the same ids and times of receipt
        assert process.read("/seconds/60") == kept
        assert process.read("/last/70") == kept[-70:]
        assert process.read("/30/65") == []
        assert process.read("/29/66") == [kept[29], kept[30]]
    assert postgres.execute(COUNT).fetchone() == (segments[0] - 1,) if segments else False
    assert len(api.read(password="another")) == 1
    assert erased(api, 30, 65) == 0
    assert api.read() == kept


def test_random_windows(api: Api, writer: Writer) -> None:
    """As a model of the vault says. Segments overlap, and readings have equal times."""
    chance = random.Random(7)
    for _ in range(6):
        store(api, writer, [chance.randrange(-50, 50) for _ in range(chance.randrange(1, 40))])
    model = api.read()
    for _ in range(12):
        low = chance.randrange(-60, 60)
        high = low + chance.randrange(-2, 12)
        count = len(model)
        model = outside(model, low, high)
        assert erased(api, low, high) == count - len(model)
        assert api.read() == model
        assert api.read("/seconds/60") == model
    assert erased(api, -(2**63), 2**63 - 1) == len(model)
    assert api.read() == []


@pytest.mark.parametrize(
    ("start", "end", "left"),
    [("1.9", "2.9e0", [0, 3]), (-5, 0, [1, 2, 3]), (3, 1, [0, 1, 2, 3]), ("%201", 1, [0, 2, 3])],
)
def test_the_window_means_what_it_means_in_a_read(
    api: Api, writer: Writer, start: object, end: object, left: list[int]
) -> None:
    store(api, writer, [0, 1, 2, 3])
    found = len(api.read(f"/{start}/{end}"))
    assert erased(api, start, end) == found
    assert [each["relative_timestamp"] for each in api.read()] == left


def test_a_process_that_is_killed_leaves_nothing_readable_in_the_hot_window(
    api: Api, writer: Writer, redis: "Redis", monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is killed between the deletion in Postgres and that in Redis."""

    def fail(*_: object) -> None:
        raise ConnectionError("killed by a test")

    store(api, writer, [1, 2, 3])
    hot = sample("iot_reads_total", source="hot_window")
    assert len(api.read("/seconds/60")) == 3
    assert sample("iot_reads_total", source="hot_window") == hot + 1
    with monkeypatch.context() as killing:
        killing.setattr(HotWindow, "evict", fail)
        assert_error(erase(api, 2, 2), 503, "unavailable")
    assert [each["relative_timestamp"] for each in api.read("/seconds/60")] == [1, 3]
    (hidden,) = redis.scan_iter(KEYS.hot_hidden(b"") + "*")
    # A writer may be 120 s late with segments that it stored before the erasure.
    seconds = writer.settings.hot_window_seconds
    assert seconds + 60 < redis.ttl(hidden) <= seconds + 120
    redis.delete(hidden)
    assert len(api.read("/seconds/60")) == 3  # what the mark prevents


def test_the_bytes_leave_the_hot_window(api: Api, writer: Writer, redis: "Redis") -> None:
    store(api, writer, [1])
    store(api, writer, [2, 3])
    store(api, writer, [4])
    pattern = KEYS.hot_segment(bytes(16), 0).partition(":00")[0] + ":*"
    assert len(list(redis.scan_iter(pattern))) == 3
    assert erased(api, 1, 2) == 2
    wait_until(lambda: len(list(redis.scan_iter(pattern))) == 1, what="the eviction")
    assert [each["relative_timestamp"] for each in api.read("/seconds/60")] == [3, 4]


def test_repeated_entries_stay_erased(api: Api, writer: Writer, redis: "Redis") -> None:
    """The ledger knows them as stored."""
    assert api.put([row(relative_time=at) for at in (1, 2)]).status_code == 201
    shards = range(writer.settings.shards)
    waiting = {shard: read_waiting(writer.backlog, shard, max_bytes=2**20) for shard in shards}
    drain_all(writer)
    assert erased(api, 1, 1) == 1
    for shard, entries in waiting.items():
        for entry in entries:
            redis.xadd(KEYS.stream(shard), {"e": entry.sealed, "t": entry.bytes_so_far})
    drain_all(writer)
    assert [each["relative_timestamp"] for each in api.read()] == [2]


def test_compaction_brings_nothing_back(api: Api, settings: Settings, writer: Writer) -> None:
    with sending(settings) as sender:
        past = Past(sender, writer)
        sent = each_second(noon(3), 200)
        past.store(PASSWORD.encode(), sent)
        half = sorted(relative for _, _, relative, _ in sent)[100]
        assert past.look(PASSWORD.encode()) > 0  # orders that wait
        assert erased(api, half, 2**62) == 100
        assert set(past.work()) <= {CompactionOutcome.MERGED, CompactionOutcome.GONE}
        past.compact(PASSWORD.encode())
        assert len(api.read()) == 100
        # Now the window ends in a merged segment.
        quarter = sorted(relative for _, _, relative, _ in sent)[50]
        assert erased(api, quarter, 2**62) == 50
        past.compact(PASSWORD.encode())
        assert len(api.read()) == 50
        assert max(each["relative_timestamp"] for each in api.read()) < quarter


def test_compaction_between_the_search_and_the_erasure(
    api: Api, settings: Settings, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[int] = []
    find = segment_erasure.find

    def find_then_compact(*arguments: Any) -> list[NamedSegment]:
        segments = find(*arguments)
        if not found:
            past.compact(PASSWORD.encode())
        found.append(len(segments))
        return segments

    with sending(settings) as sender:
        past = Past(sender, writer)
        sent = each_second(noon(3), 200)
        past.store(PASSWORD.encode(), sent)
        middle = sorted(relative for _, _, relative, _ in sent)[50:150]
        monkeypatch.setattr(segment_erasure, "find", find_then_compact)
        assert erased(api, middle[0], middle[-1]) == 100
        assert len(found) > 1
        assert found[1] < found[0]
        assert len(outside(api.read(), middle[0], middle[-1])) == len(api.read()) == 100


@pytest.mark.parametrize("step", ["find", "fetch"])
def test_a_segment_that_is_replaced_before_its_part_is_erased(
    api: Api, make_api: MakeApi, writer: Writer, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Another process replaces it after this step."""
    store(api, writer, [1, 2, 3, 4])
    other, done, calls = make_api(), getattr(segment_erasure, step), list[object]()

    def then_replace(*arguments: Any) -> object:
        result = done(*arguments)
        calls.append(result)
        if len(calls) == 1:
            assert erased(other, 4, 4) == 1
        return result

    monkeypatch.setattr(segment_erasure, step, then_replace)
    assert erased(api, 2, 3) == 2
    assert [each["relative_timestamp"] for each in api.read()] == [1]


def test_an_erasure_that_was_killed_is_repeated(
    api: Api, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for start in (0, 10, 20):
        store(api, writer, [start, start + 100])
    before = api.read()
    replace = segment_erasure.replace
    calls: list[int] = []

    def replace_once(*arguments: Any) -> bool:
        if calls:
            raise psycopg.OperationalError("killed by a test")
        calls.append(1)
        return replace(*arguments)

    with monkeypatch.context() as killing:
        killing.setattr(segment_erasure, "replace", replace_once)
        assert_error(erase(api, 0, 50), 503, "unavailable")
    assert len(api.read()) == 5
    assert outside(before, 0, 50) == outside(api.read(), 0, 50)
    assert erased(api, 0, 50) == 2
    assert api.read() == outside(before, 0, 50)


def test_a_damaged_segment_on_the_border_stays(
    api: Api, writer: Writer, postgres: psycopg.Connection
) -> None:
    store(api, writer, [1, 2])
    postgres.execute(
        "UPDATE segments SET payload = set_byte(payload, 40, get_byte(payload, 40) # 1)"
    )
    assert_error(erase(api, 2, 2), 500, "damaged")
    assert postgres.execute(COUNT).fetchone() == (1,)
    assert erased(api, 1, 2) == 2  # it lies within the window


def test_triggers_of_the_segments_change_no_session(
    api: Api, writer: Writer, postgres: psycopg.Connection, postgres_url: str
) -> None:
    """The table belongs to the writers' role, which may add such constraints."""
    store(api, writer, [1, 2])
    postgres.execute(
        "ALTER TABLE segments ADD CHECK (set_config('row_security', 'off', false) IS NOT NULL)"
    )
    ((vault_id,),) = postgres.execute("SELECT vault_id FROM vaults").fetchall()
    assert isinstance(vault_id, uuid.UUID)
    with psycopg.connect(postgres_url, autocommit=True) as session:
        (segment,) = segment_erasure.find(session, vault_id, 1, 1)
        (row_security,) = session.execute("SHOW row_security").fetchall()
        columns = postgres.execute("SELECT payload FROM segments").fetchone()
        assert columns is not None
        sealed = SealedSegment(vault_id, segment.bounds, columns[0])
        assert segment_erasure.replace(session, segment, sealed)
        assert session.execute("SHOW row_security").fetchall() == [row_security]
        (segment,) = segment_erasure.find(session, vault_id, 1, 1)
        assert segment_erasure.erase(session, vault_id, [segment]) == (1, 2)
        assert session.execute("SHOW row_security").fetchall() == [row_security]


def test_a_wrong_password_is_a_guess(make_api: MakeApi, writer: Writer) -> None:
    api = make_api(guess_limit=2)
    store(api, writer, [1])
    for number in range(1):
        error = assert_error(erase(api, 1, 1, f"wrong {number}"), 404, "not_found")
        assert error["field"] == "db_password"
    for password in ("wrong again", PASSWORD):
        assert_error(erase(api, 1, 1, password), 429, "too_many_requests")
    assert len(make_api().read()) == 1


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/api/iot/x/1", '{"data": {"db_password": "p"}}', "start"),
        ("/api/iot/1/x", '{"data": {"db_password": "p"}}', "end"),
        ("/api/iot/seconds/1", '{"data": {"db_password": "p"}}', "start"),
        ("/api/iot/1/2", '{"data": {}}', "data"),
        ("/api/iot/1/2", "", "data"),
        ("/api/iot/1/2?from=1", '{"data": {"db_password": "p"}}', "from"),
        ("/api/vault?to=1", '{"data": {"db_password": "p"}}', "to"),
        ("/api/dead-letters/1-0?limit=1", "", "limit"),
    ],
)
def test_invalid_requests(module_api: Api, path: str, body: str, field: str) -> None:
    error = assert_error(module_api.ask("DELETE", path, body, JSON), 400, "invalid_request")
    assert error["field"] == field


def test_without_redis_nothing_is_erased(
    make_api: MakeApi, own_redis: RedisServer, postgres: psycopg.Connection
) -> None:
    api = make_api(redis_url=own_redis.url)
    api.put(row())
    own_redis.stop()
    assert_error(erase(api, 1, 1), 503, "unavailable")
    assert postgres.execute("SELECT count(*) FROM audit_log").fetchone() == (0,)


@pytest.mark.parametrize("path", ["/api/iot/1/1", "/api/vault"])
def test_with_the_redis_of_another_installation_nothing_is_erased(
    api: Api, make_api: MakeApi, writer: Writer, redis_url: str, path: str
) -> None:
    """The readings that wait, and the other processes, are at the right Redis."""
    store(api, writer, [1])
    other_url = redis_url.replace("/0", "/1")
    with Redis.from_url(other_url) as other:
        other.set(KEYS.owner, str(uuid.uuid4()))
    stranger = make_api(redis_url=other_url)
    body = json.dumps({"data": {"db_password": PASSWORD}})
    assert_error(stranger.ask("DELETE", path, body, JSON), 503, "unavailable")
    assert len(api.read()) == 1
