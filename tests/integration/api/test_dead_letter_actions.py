"""Dead letters are replayed and dropped over HTTP: the API makes an order, a writer obeys it."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from redis import Redis
from werkzeug.test import TestResponse

from integration.api.asking import Api, assert_error, row
from integration.api.test_status import status, stores
from iot_api.status import letter_actions
from iot_models.audit_event import AuditKind, describe, parse_event
from iot_models.settings import Settings
from iot_stores.dead_letters import DeadLetter
from iot_stores.stream_entries import WaitingEntry
from iot_writer.writer import Writer
from support.draining import drain_all, read_waiting
from support.keys import KEYS


def set_aside(api: Api, sealed: bytes = b"no entry", entry_id: bytes = b"1-0") -> DeadLetter:
    """Make an entry a dead letter."""
    letters = stores(api).dead_letters
    letters.add(3, WaitingEntry(entry_id, sealed, 1, 0), "a reason")
    return list(letters.all())[-1]


def set_aside_whole(api: Api, redis: "Redis") -> DeadLetter:
    """Make the entry of a PUT a dead letter, as after the loss of a key."""
    assert api.put(row(freeform="kept")).status_code == 201
    (shard,) = (n for n in range(8) if redis.xlen(KEYS.stream(n)))
    (waiting,) = read_waiting(stores(api).backlog, shard, max_bytes=1)
    stores(api).dead_letters.add(shard, waiting, "no keys")
    redis.xtrim(KEYS.stream(shard), maxlen=0, approximate=False)
    return next(stores(api).dead_letters.all())


def replay(api: Api, letter_id: str) -> TestResponse:
    return api.ask("POST", f"/api/dead-letters/{letter_id}/replay")


def drop(api: Api, letter_id: str) -> TestResponse:
    return api.ask("DELETE", f"/api/dead-letters/{letter_id}")


def left(api: Api) -> list[str]:
    return [letter.letter_id for letter in stores(api).dead_letters.all()]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not wait for a writer."""
    monkeypatch.setattr(letter_actions, "WAIT_SECONDS", 0)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait long, even on a busy machine."""
    monkeypatch.setattr(letter_actions, "WAIT_SECONDS", 60)


@pytest.mark.usefixtures("impatient")
def test_a_drop_waits_for_a_writer_and_is_recorded_first(
    api: Api, writer: Writer, redis: "Redis"
) -> None:
    letter, other = set_aside(api), set_aside(api, entry_id=b"2-0")
    for _ in range(2):  # the request can be repeated
        answer = drop(api, letter.letter_id)
        assert (answer.status_code, answer.get_json()) == (
            202,
            {"id": letter.letter_id, "state": "ordered"},
        )
    ordered = [each["ordered"] for each in status(api)["dead_letters"]["oldest"]]
    assert ordered == ["drop", None]
    assert b"sweep" in redis.lrange(KEYS.job_list, 0, -1)
    said = assert_error(replay(api, letter.letter_id), 409, "conflict")["error"]
    problem = "writers already have an order to drop it"
    assert said == f"can't replay dead letter {letter.letter_id}: {problem}"
    assert left(api) == [letter.letter_id, other.letter_id]

    writer.letter_orders.run(writer.postgres)
    assert left(api) == [other.letter_id]
    assert not redis.exists(KEYS.dead_letter_orders)
    ((_, _, line),) = writer.audit.latest(writer.postgres(), 10)
    event = parse_event(line)
    assert event is not None
    event.pop("time")
    assert event == {
        "event": AuditKind.DEAD_LETTER_DROPPED,
        "letter": letter.letter_id,
        "shard": 3,
        "reason": "a reason",
        "token": None,
        "client": "127.0.0.1",
    }
    assert describe(line).endswith("is dropped: a reason (ordered by 127.0.0.1)")
    assert_error(drop(api, letter.letter_id), 404, "not_found")


@pytest.mark.usefixtures("patient")
def test_a_replay_is_stored_before_the_answer(api: Api, writer: Writer, redis: "Redis") -> None:
    letter = set_aside_whole(api, redis)
    with ThreadPoolExecutor() as threads:
        asked = threads.submit(replay, api, letter.letter_id)
        while not asked.done():
            writer.letter_orders.run(writer.postgres)
        answer = asked.result()
    assert (answer.status_code, answer.get_json()["state"]) == (200, "replayed")
    assert left(api) == []
    drain_all(writer)
    assert [each["freeform"] for each in api.read()] == ['"kept"']


@pytest.mark.parametrize(
    "letter_id",
    [
        "1-0",
        "1764320000000",
        "x",
        "-",
        "1-",
        "1-0-0",
        "9" * 30,
        "%D9%A1-0",
        "18446744073709551616-0",
    ],
)
def test_an_unknown_id(api: Api, letter_id: str) -> None:
    set_aside(api)
    for ask in (replay, drop):
        assert_error(ask(api, letter_id), 404, "not_found")
    assert len(left(api)) == 1


@pytest.mark.usefixtures("impatient")
def test_what_may_be_stored_already_is_not_replayed(
    api: Api, writer: Writer, redis: "Redis", monkeypatch: pytest.MonkeyPatch
) -> None:
    letter = set_aside_whole(api, redis)
    path = "iot_stores.forgotten.TOO_OLD_MS"
    assert replay(api, letter.letter_id).status_code == 202
    with monkeypatch.context() as patch:
        patch.setattr(path, -(10**12))  # as if 60 days had passed
        writer.letter_orders.run(writer.postgres)
        said = assert_error(replay(api, letter.letter_id), 409, "conflict")["error"]
    assert "sealed more than 60 days ago" in said
    assert left(api) == [letter.letter_id]
    assert not redis.exists(KEYS.dead_letter_orders)
    assert drop(api, letter.letter_id).status_code == 202


@pytest.mark.usefixtures("patient")
def test_an_order_that_a_writer_refuses(api: Api, writer: Writer, redis: "Redis") -> None:
    letter = set_aside(api)
    redis.hset(KEYS.dead_letter_orders, letter.letter_id, b"planted")
    with ThreadPoolExecutor() as threads:
        asked = threads.submit(drop, api, letter.letter_id)
        while not asked.done():
            writer.letter_orders.run(writer.postgres)
        assert_error(asked.result(), 503, "unavailable")
    assert left(api) == [letter.letter_id]


@pytest.mark.usefixtures("impatient")
def test_a_full_backlog_delays_a_replay_only(
    api: Api, writer: Writer, settings: Settings, redis: "Redis"
) -> None:
    letter, other = set_aside_whole(api, redis), set_aside(api)
    redis.hset(KEYS.backlog_counters, "bytes", settings.backlog_max_bytes)
    assert replay(api, letter.letter_id).status_code == 202
    assert drop(api, other.letter_id).status_code == 202
    writer.letter_orders.run(writer.postgres)
    assert left(api) == [letter.letter_id]
    redis.hset(KEYS.backlog_counters, "bytes", 0)
    writer.letter_orders.run(writer.postgres)
    assert left(api) == []
    kinds = [
        (parse_event(line) or {})["event"]
        for _, _, line in writer.audit.latest(writer.postgres(), 9)
    ]
    assert kinds == [AuditKind.DEAD_LETTER_DROPPED, AuditKind.DEAD_LETTER_REPLAYED]
