"""The log of requests: which are logged, and with what fields."""

import json
import logging
import uuid
from dataclasses import replace
from typing import Any

import pytest

from integration.api.asking import JSON, Api, row
from integration.api.conftest import MakeApi
from iot_api.http import request_log
from iot_api.http.request import Answered
from iot_models.settings import Settings
from iot_writer.writer import Writer

REQUESTS = "iot_api.http.request_log"
STORED = "iot_writer.drain.stored_log"


@pytest.fixture(autouse=True)
def _level(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


def events(caplog: pytest.LogCaptureFixture, logger: str = REQUESTS) -> list[dict[str, Any]]:
    """Return the events of a logger, and forget them."""
    found = [vars(record) for record in caplog.records if record.name == logger]
    caplog.clear()
    return found


def test_requests_that_succeed_are_not_logged(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    assert api.put(row()).status_code == 201
    api.read()
    assert events(caplog) == []


def test_a_refused_put_is_logged_with_its_code(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    answer = api.put([{"data": {"relative_time": "secret"}}], {"X-Request-Id": "given-1"})
    (event,) = events(caplog)
    assert event["message"] == "a request was refused"
    assert (event["route"], event["method"], event["status"]) == ("/api/iot", "PUT", 400)
    assert event["request_id"] == "given-1" == answer.headers["X-Request-Id"]
    assert event["code"] == "invalid_request"
    assert event["duration_ms"] > 0
    assert "secret" not in str(event)


def test_an_unknown_path_is_not_logged(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    """A path may hold a password."""
    assert api.ask("GET", "/api/iot/secret/9/9").status_code == 404
    (event,) = events(caplog)
    assert (event["route"], event["method"], event["status"]) == ("none", "any", 404)
    assert event["code"] == "not_found"
    assert "secret" not in str({**event, "request": ""})


def test_refusals_have_a_pace(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(request_log.EVENTS + 10):
        api.put("no rows")
    assert len(events(caplog)) == request_log.EVENTS
    assert api.ask("GET", "/api/iot").status_code == 405  # another kind
    assert len(events(caplog)) == 1


def test_details_are_computed_for_logged_requests_only(settings: Settings) -> None:
    class Details:
        computed = 0

        def log_fields(self) -> dict[str, object]:
            self.computed += 1
            return {}

    log, details = request_log.RequestLog(settings), Details()
    refused = Answered("/api/iot", "PUT", 400, 0.01, "id")
    for _ in range(request_log.EVENTS + 10):
        log.add(refused, {request_log.LOGGED: details})
    assert details.computed == request_log.EVENTS


def test_a_limit_is_logged_with_its_reason(
    make_api: MakeApi, caplog: pytest.LogCaptureFixture
) -> None:
    api = make_api(guess_limit=1)
    for number in range(2):
        api.post(password=f"unknown {number}")
    (event,) = events(caplog)
    assert (event["status"], event["reason"]) == (429, "guesses")


def test_a_slow_request_is_logged(make_api: MakeApi, caplog: pytest.LogCaptureFixture) -> None:
    api = make_api(log_slow_milliseconds=1)
    assert api.put(row()).status_code == 201  # creates a vault in Postgres
    (event,) = events(caplog)
    assert event["levelname"] == "WARNING"
    assert event["message"] == "a request was slow"
    assert event["duration_ms"] >= 1
    assert event["readings"] == 1
    assert "entry" not in event, "only the names of some requests are known"


def test_one_name_leads_from_a_request_to_its_segment(
    make_api: MakeApi, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    api = make_api(log_requests=1)
    rows = [row("p", relative_time=1), row("q"), row("p", relative_time=2)]
    assert api.put(rows).status_code == 201
    assert api.put(row("p")).status_code == 201
    several, single = events(caplog)
    assert several["message"] == "a request was answered"
    assert several["readings"] == 3
    writer = Writer(replace(settings, log_requests=1))
    try:
        writer.drain_shards(range(settings.shards))
    finally:
        writer.close()
    stored = {event["vault"]: event for event in events(caplog, STORED)}
    assert set(stored) == set(several["vault"])
    of_p = stored[single["vault"][0]]
    assert of_p["entry"] == [*(set(several["entry"]) & set(of_p["entry"])), *single["entry"]]
    assert of_p["readings"] == 3
    assert [of_p["shard"]] == [int(each) for each in single["shard"]]
    (of_q,) = (event for vault, event in stored.items() if vault not in single["vault"])
    assert set(of_q["entry"]) < set(several["entry"])
    assert of_q["first_id"] == of_q["last_id"]
    assert api.read("/last/1", "q")
    (read,) = events(caplog)
    assert read["vault"] == str(uuid.UUID(of_q["vault"]))


def test_a_repeated_put_is_logged_like_the_first(
    make_api: MakeApi, caplog: pytest.LogCaptureFixture
) -> None:
    api = make_api(log_requests=1)
    for _ in range(2):
        assert api.put([row("p"), row("q")], {"Idempotency-Key": "k"}).status_code == 201
    first, repeated = events(caplog)
    for name in ("vault", "entry"):
        assert first[name] == repeated[name] != []
    assert set(first["shard"]) == set(repeated["shard"]) != set()


def test_the_password_of_a_request_is_not_logged(
    make_api: MakeApi, caplog: pytest.LogCaptureFixture
) -> None:
    api = make_api(log_requests=1)
    body = json.dumps(row("Zq7secret", freeform="Zq7reading"))
    api.ask("PUT", "/api/iot?ack=Zq7secret", body, JSON)
    api.ask("PUT", "/api/iot", body, JSON)
    api.ask("POST", "/api/iot/Zq7secret", body, JSON)
    api.read(password="Zq7secret")
    assert len(events_texts := [str({**each, "request": ""}) for each in events(caplog)]) == 4
    assert "Zq7" not in "".join(events_texts)
