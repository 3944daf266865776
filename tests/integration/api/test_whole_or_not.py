"""A request is stored completely or not at all."""

import random

import psycopg
import pytest
from redis import Redis

from integration.api.asking import JSON, Api, assert_error, row, sample
from integration.api.conftest import MakeApi
from iot_api.ingest import intake
from iot_cipher.encryption import Sealer
from iot_models import names
from iot_stores.backlog_append import BacklogAppender
from iot_writer.writer import Writer
from support.draining import drain_all
from support.keys import KEYS

MIB = 2**20
_noise = random.Random(1)


def entries(redis: "Redis") -> int:
    return sum(redis.xlen(KEYS.stream(shard)) for shard in range(8))


def heavy(password: str, size: int) -> dict[str, object]:
    """Return a row of about `size` bytes that does not compress below half its size."""
    return row(password, freeform=_noise.randbytes(size // 2).hex())


@pytest.mark.parametrize(
    "bad", [{}, row("b", relative_time="x"), row("new", interrogator_time=1e30)]
)
@pytest.mark.parametrize("at", [0, 500, 999])
def test_one_invalid_row_refuses_the_request(
    api: Api, redis: "Redis", postgres: psycopg.Connection, bad: object, at: int
) -> None:
    rows: list[object] = [row("a" if number % 2 else "b") for number in range(1000)]
    rows[at] = bad
    before = sample("iot_readings_acknowledged_total")
    assert assert_error(api.put(rows), 400, "invalid_request")["row"] == at
    assert entries(redis) == 0
    assert postgres.execute("SELECT count(*) FROM vaults").fetchone() == (0,)
    assert sample("iot_readings_acknowledged_total") == before


def test_several_passwords_in_one_request(api: Api, redis: "Redis", writer: Writer) -> None:
    passwords = [f"p{number}" for number in range(20)]
    rows = [row(password, freeform=n) for n in range(5) for password in passwords]
    before = sample("iot_readings_acknowledged_total")
    answer = api.put(rows)
    assert answer.json == {"success": "100 object(s) created"}
    assert sample("iot_readings_acknowledged_total") == before + 100
    assert entries(redis) == 20
    drain_all(writer)
    for password in passwords:
        assert [each["freeform"] for each in api.read(password=password)] == list("01234")


def test_a_full_backlog_refuses_all_passwords_of_a_request(
    make_api: MakeApi, redis: "Redis", writer: Writer
) -> None:
    api = make_api(backlog_max_bytes=MIB)
    assert api.put(heavy("z", MIB)).status_code == 201
    drain = names.drain_job(int(redis.hkeys(KEYS.backlog_counters)[0][3:]))
    rows = [heavy(password, MIB // 2) for password in "abc"]
    full = assert_error(api.put(rows), 503, "unavailable")
    assert full["error"] == "the backlog is full; nothing was stored"
    assert entries(redis) == 1
    assert redis.lrange(KEYS.job_list, 0, -1) == [drain.encode()]
    drain_all(writer)
    assert api.put(rows).status_code == 201


def test_a_request_larger_than_the_backlog_is_413(make_api: MakeApi, redis: "Redis") -> None:
    api = make_api(backlog_max_bytes=MIB)
    assert_error(api.put([heavy(password, MIB) for password in "abc"]), 413, "too_large")
    assert entries(redis) == 0


def test_a_request_refused_by_a_full_backlog_is_not_stored(
    make_api: MakeApi, writer: Writer
) -> None:
    api = make_api(backlog_max_bytes=MIB)
    assert api.put(heavy("z", MIB)).status_code == 201
    assert_error(api.put([heavy(name, MIB // 2) for name in "abc"]), 503, "unavailable")
    drain_all(writer)
    assert [api.read(password=password) for password in "abc"] == [[], [], []]


def test_the_numbers_of_entries_that_are_not_appended_are_abandoned(
    make_api: MakeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the number of gaps of a session would grow, and drains read and write each gap."""
    abandoned: list[int] = []
    monkeypatch.setattr(Sealer, "abandon_numbers", lambda _, count: abandoned.append(count))
    api = make_api(guess_limit=3, backlog_max_bytes=MIB)
    key = {"Idempotency-Key": "k"}
    assert api.put([row("p"), row("q")], key).status_code == 201
    with monkeypatch.context() as concurrent:  # both requests look before one of them is appended
        concurrent.setattr(BacklogAppender, "first_answer", lambda *_: None)
        assert "Idempotent-Replayed" in api.put([row("p"), row("q")], key).headers
    assert abandoned == [2]
    assert api.put(heavy("p", MIB)).status_code == 201
    assert_error(api.put(heavy("p", MIB)), 503, "unavailable")
    assert abandoned == [2, 1]
    assert make_api(guess_limit=3).read(password="unknown") == []
    assert_error(api.put([row("p"), row("q")]), 429, "too_many_requests")
    assert abandoned == [2, 1, 2]


def test_a_full_backlog_refuses_until_it_is_drained(
    make_api: MakeApi, redis: "Redis", writer: Writer
) -> None:
    api = make_api(backlog_max_bytes=MIB)
    assert api.put(heavy("p", MIB)).status_code == 201
    answer = api.put(heavy("p", 3 * MIB // 2))
    assert_error(answer, 503, "unavailable")
    assert int(answer.headers["Retry-After"]) >= 1
    assert entries(redis) == 1
    assert (
        api.put(row("p", freeform="small")).status_code == 201
    )  # the backlog has room for this row
    drain_all(writer)
    assert int(redis.hget(KEYS.backlog_counters, "bytes") or b"x") == 0
    assert api.put(heavy("p", MIB)).status_code == 201
    drain_all(writer)
    assert len(api.read(password="p")) == 3


def test_a_request_of_more_readings_than_an_entry_holds(
    api: Api, redis: "Redis", writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "MAX_READINGS", 10)
    rows = [row(relative_time=n, interrogator_time=-n, freeform=[n, "é"]) for n in range(25)]
    assert api.put(rows).json == {"success": "25 object(s) created"}
    assert entries(redis) == 3
    drain_all(writer)
    read = api.read()
    assert [each["relative_timestamp"] for each in read] == list(range(24, -1, -1))
    assert [each["interrogator_timestamp"] for each in read] == list(range(-24, 1))
    assert [each["freeform"] for each in read][:2] == ['[24, "\\u00e9"]', '[23, "\\u00e9"]']


def test_the_number_of_readings_per_request_is_limited(make_api: MakeApi, redis: "Redis") -> None:
    api = make_api(max_readings=10)
    error = assert_error(api.put([row()] * 11), 413, "too_large")
    assert error["error"] == "a request may have at most 10 readings, this request has 11"
    assert error["limit"] == 10
    assert entries(redis) == 0
    assert api.put([row()] * 10).status_code == 201


def test_entries_and_wake_up_are_added_in_one_step(api: Api, redis: "Redis") -> None:
    """The script adds entries and queues their drains atomically."""
    api.ask("PUT", "/api/iot", '{"data": {}}', JSON)
    (shard,) = (shard for shard in range(8) if redis.xlen(KEYS.stream(shard)))
    assert redis.lrange(KEYS.job_list, 0, -1) == [names.drain_job(shard).encode()]
