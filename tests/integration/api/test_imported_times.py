"""`received=original`: readings keep the time of receipt that an earlier server gave them."""

import json
import random
import string
import time
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from redis import Redis
from werkzeug.test import TestResponse

from integration.api.asking import JSON, Api, Row, assert_error, row
from integration.api.conftest import MakeApi
from iot_api.ingest import imported_times
from iot_api.ingest.imported_times import MAX_DAYS
from iot_cipher.tokens import new_tokens_text, with_token
from iot_models.reading import absolute_timestamp
from iot_writer.writer import Writer
from support.draining import drain_all

IMPORT = "/api/iot?received=original"
OLD = "2014-03-18 10:59:19"


def old_row(at: str, number: int, **data: Any) -> Row:
    return row(relative_time=number, interrogator_time=number, absolute_timestamp=at, **data)


def send(api: Api, rows: object, **headers: str) -> TestResponse:
    return api.ask("PUT", IMPORT, json.dumps(rows), {**JSON, **headers})


def received(api: Api, path: str = "") -> dict[int, str]:
    """Return the time of receipt of each reading, by its relative timestamp."""
    return {each["relative_timestamp"]: each["absolute_timestamp"] for each in api.read(path)}


def test_each_reading_keeps_its_time(
    api: Api, writer: Writer, postgres: psycopg.Connection
) -> None:
    times = {
        1: OLD, 2: OLD, 3: "2014-03-31 23:59:59", 4: "2014-04-01 00:00:00",
        5: "1970-01-01 00:00:00", 6: "2014-03-18 10:59:20",
    }  # fmt: skip
    # The dates of the last readings: seven hours of another zone, a fraction of a second.
    rows = [old_row(at, number) for number, at in times.items()]
    rows += [old_row("2014-03-18T03:59:21-07:00", 7), old_row("2014-03-18 10:59:22.999", 8)]
    assert send(api, rows).get_json() == {"success": "8 object(s) created"}
    assert api.put(row(relative_time=9, interrogator_time=9, absolute_timestamp=OLD)).status_code
    drain_all(writer)
    found = received(api)
    today = found.pop(9)
    assert abs(time.time() - _unix(today)) < 60, "an ordinary PUT ignores absolute_timestamp"
    assert found == times | {7: "2014-03-18 10:59:21", 8: "2014-03-18 10:59:22"}
    assert set(received(api, "/seconds/4000000000")) == {*found, 9}
    days = postgres.execute(
        "SELECT DISTINCT received_min / 86400000, received_max / 86400000 FROM segments"
    ).fetchall()
    assert len(days) == 5, "18 and 31 March and 1 April 2014, 1 January 1970, today"
    assert all(low == high for low, high in days), "a segment is of one day"


def _unix(text: str) -> float:
    return datetime.strptime(text, "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC).timestamp()


def test_old_readings_are_not_among_the_latest(api: Api, writer: Writer, redis: "Redis") -> None:
    recent = absolute_timestamp(int(time.time()) - 30)
    large = "".join(random.choices(string.printable, k=10_000))
    rows = [old_row(OLD, 1), old_row(OLD, 1, freeform=large), old_row(recent, 2)]
    assert send(api, rows).status_code == 201
    drain_all(writer)
    assert api.put(row(relative_time=3)).status_code == 201
    drain_all(writer)
    assert set(received(api, "/seconds/60")) == {2, 3}
    assert set(received(api, "/seconds/10")) == {3}
    kept = [name for name in redis.keys("*") if b":hot:" in name or b"hot" in name]
    assert kept, "this test looks at the hot window"
    segments = [name for name in kept if redis.type(name) == b"string"]
    assert len(segments) == 2, "the hot window holds no reading of 2014"


def test_only_short_times_are_cached(api: Api) -> None:
    cache = imported_times._milliseconds  # noqa: SLF001 - what a client may leave in memory
    cache.cache_clear()
    rows = [old_row(OLD + " " * 10_000, 1), old_row(OLD, 2), old_row(OLD, 3)]
    assert send(api, rows).status_code == 201
    assert_error(send(api, old_row("x" * 10_000, 4)), 400, "invalid_request")
    assert cache.cache_info().currsize == 1


@pytest.mark.parametrize(
    ("at", "problem"),
    [
        (None, "is not a date such as 2026-11-23 06:17:23"),
        (1395140359, "is not a date such as"),
        ("1395140359", "is not a date such as"),
        (" 123e-5", "is not a date such as"),
        ("9.9e-9", "is not a date such as"),
        ("yesterday", "is not a date such as"),
        ("3/18/2014 10:59:19.0 AM", "is not a date such as"),
        ("2199-01-01 00:00:00", "is in the future"),
        ("1969-12-31 23:59:59", "is before 1970-01-01"),
    ],
)
def test_a_time_that_can_t_be_kept_refuses_the_request(
    api: Api, redis: "Redis", at: object, problem: str
) -> None:
    rows = [old_row(OLD, 1), row(absolute_timestamp=at)]
    body = assert_error(send(api, rows), 400, "invalid_request")
    assert body["error"].startswith(f"row 1, absolute_timestamp: {problem}")
    assert body["row"] == 1
    assert not redis.keys("iot:ingest:*")


def test_readings_older_than_the_retention_are_refused(make_api: MakeApi) -> None:
    api = make_api(retention_days=30)
    kept = absolute_timestamp(int(time.time()) - 29 * 86_400)
    assert send(api, [old_row(kept, 1)]).status_code == 201
    body = assert_error(send(api, [old_row(kept, 1), old_row(OLD, 2)]), 400, "invalid_request")
    assert "retention deletes readings received before" in body["error"]
    assert OLD < body["oldest"] < kept < body["latest"]


def test_no_time_is_accepted_that_writers_refuse(make_api: MakeApi) -> None:
    """Readings that are kept for a century, and clocks that may differ by millennia."""
    api = make_api(retention_days=36_500, clock_skew_max_seconds=2**53)
    for at, problem in {
        "1969-12-31 23:59:59": "is before 1970-01-01",
        "9999-12-01 00:00:00": "is in the future",
    }.items():
        body = assert_error(send(api, old_row(at, 1)), 400, "invalid_request")
        assert problem in body["error"]
        assert (body["oldest"], body["latest"]) == ("1970-01-01 00:00:00", "9999-11-30 23:59:59")


def test_an_unknown_choice_is_refused(make_api: MakeApi) -> None:
    api = make_api(rate_limit_address=2)
    answer = api.ask("PUT", "/api/iot?received=later", "[]", JSON)
    assert assert_error(answer, 400, "invalid_request")["field"] == "received"
    assert '"address";r=1;' in answer.headers["RateLimit"], "the rate limit counts the request"
    assert api.ask("PUT", "/api/iot?received=now&x=y", '{"data": {}}', JSON).status_code == 201


def test_only_an_admin_brings_times(make_api: MakeApi, tmp_path: Any) -> None:
    text, device = with_token(new_tokens_text(), "device", ["ingest", "read"])
    text, admin = with_token(text, "admin", ["admin"])
    (tmp_path / "tokens.json").write_text(text)
    api = make_api(tokens_file=str(tmp_path / "tokens.json"), anonymous_scopes="ingest")
    rows = [old_row(OLD, 1)]
    assert_error(send(api, rows), 401, "unauthorized")
    assert_error(send(api, rows, Authorization=f"Bearer {device}"), 403, "forbidden")
    assert send(api, rows, Authorization=f"Bearer {admin}").status_code == 201
    api = make_api(tokens_file=str(tmp_path / "tokens.json"))
    assert_error(api.ask("PUT", "/api/iot?received=x", "[]", JSON), 401, "unauthorized")


def test_a_key_covers_the_times_of_receipt(api: Api) -> None:
    key = {"Idempotency-Key": "k"}
    assert send(api, [old_row(OLD, 1)], **key).status_code == 201
    assert send(api, [old_row(OLD, 1)], **key).headers["Idempotent-Replayed"] == "true"
    assert send(api, [old_row("2014-03-18 10:59:20", 1)], **key).status_code == 422
    assert api.put([old_row(OLD, 1)], key).status_code == 422


def test_a_request_may_bring_readings_of_so_many_days(api: Api) -> None:
    rows = [old_row(absolute_timestamp(day * 86_400), day) for day in range(MAX_DAYS + 1)]
    assert assert_error(send(api, rows), 413, "too_large")["limit"] == MAX_DAYS
    assert send(api, rows[1:]).status_code == 201
