"""The responses to errors."""

import json
import logging

import psycopg
import psycopg_pool
import pytest
import redis.exceptions
from flask import Flask
from werkzeug.exceptions import HTTPException, NotFound, default_exceptions

from iot_api.http.errors import STATUS, ErrorResponder, error_response, register_errors
from iot_api.http.problems import TITLES
from iot_api.http.refusal_pace import RefusalPace
from iot_models.errors import (
    ConflictError,
    DecryptionError,
    ErrorCode,
    IotError,
    NotFoundError,
    Refusal,
    TooLargeError,
    TooManyRequestsError,
    UnavailableError,
)
from iot_stores.postgres import PoolBusyError

TOO_OFTEN = TooManyRequestsError("too often", retry_after=7, reason=Refusal.GUESSES)


@pytest.fixture
def app() -> Flask:
    """Return an app that answers errors of its views."""
    made = Flask(__name__)
    register_errors(made, ErrorResponder(RefusalPace(0), lambda *_: None))
    return made


def response_of(error: Exception) -> tuple[int, dict[str, object], str | None]:
    status, headers, body = error_response(error, "an-id")
    assert dict(headers)["Content-Type"] == "application/json"
    assert dict(headers)["Content-Length"] == str(len(body))
    return status, json.loads(body), dict(headers).get("Retry-After")


def test_every_code_has_a_status() -> None:
    assert set(STATUS) == set(ErrorCode)


@pytest.mark.parametrize(
    ("error", "status", "code", "retry_after"),
    [
        (NotFoundError("none"), 404, "not_found", None),
        (ConflictError("taken"), 409, "conflict", None),
        (TooLargeError("too much", limit=5), 413, "too_large", None),
        (TOO_OFTEN, 429, "too_many_requests", "7"),
        (UnavailableError("full", retry_after=5), 503, "unavailable", "5"),
        (DecryptionError("damaged"), 500, "damaged", None),
        (redis.exceptions.ConnectionError("x"), 503, "unavailable", "1"),
        (redis.exceptions.TimeoutError("x"), 503, "unavailable", "1"),
        (redis.exceptions.BusyLoadingError("x"), 503, "unavailable", "1"),
        (redis.exceptions.OutOfMemoryError("OOM command not allowed"), 503, "unavailable", "1"),
        (redis.exceptions.ReadOnlyError("READONLY You can't write"), 503, "unavailable", "1"),
        (redis.exceptions.ResponseError("OOM command not allowed"), 503, "unavailable", "1"),
        (redis.exceptions.ResponseError("WRONGTYPE Operation"), 503, "unavailable", "1"),
        (psycopg.OperationalError("x"), 503, "unavailable", "1"),
        (psycopg_pool.PoolTimeout("x"), 503, "unavailable", "1"),
        (PoolBusyError("x"), 503, "unavailable", "1"),
        (redis.exceptions.ResponseError("ERR syntax error"), 500, "internal", None),
        (psycopg.errors.UniqueViolation("x"), 500, "internal", None),
        (ZeroDivisionError("x"), 500, "internal", None),
    ],
    ids=lambda each: type(each).__name__ if isinstance(each, Exception) else None,
)
def test_status_and_code(error: Exception, status: int, code: str, retry_after: str | None) -> None:
    found_status, body, found_retry = response_of(error)
    assert (found_status, body["code"], found_retry) == (status, code, retry_after)
    assert isinstance(body["error"], str)


def test_a_busy_pool_is_not_reported_as_postgres_away() -> None:
    assert "away" in str(response_of(psycopg_pool.PoolTimeout("x"))[1]["error"])
    assert "away" not in str(response_of(PoolBusyError("x"))[1]["error"])


def test_details_are_in_the_response() -> None:
    assert response_of(TooLargeError("too much", limit=5))[1] == {
        "error": "too much",
        "code": "too_large",
        "limit": 5,
        "type": "urn:iot-sensor:error:too_large",
        "title": "Request too large",
        "status": 413,
        "detail": "too much",
    }


def test_the_old_members_come_first() -> None:
    body = error_response(TooLargeError("too much", limit=5), "an-id").body
    assert body.startswith(b'{"error":"too much","code":"too_large","limit":5,"type":')


@pytest.mark.parametrize("kind", default_exceptions.values(), ids=lambda kind: kind.__name__)
def test_every_error_is_a_problem(kind: type[HTTPException]) -> None:
    status, body, _ = response_of(kind())
    assert (body["status"], body["detail"]) == (status, body["error"])
    assert body["type"] == f"urn:iot-sensor:error:{body['code']}"
    assert body["title"] == TITLES[ErrorCode(str(body["code"]))]


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("", "application/json"),
        ("*/*", "application/json"),
        ("application/*", "application/json"),
        ("application/json", "application/json"),
        ("application/problem+json", "application/problem+json"),
        ("Application/Problem+JSON; q=0.5, */*;q=0.1", "application/problem+json"),
        ("application/json, application/problem+json", "application/problem+json"),
        ("application/json, application/problem+json;q=0.9", "application/json"),
        ("application/problem+json;q=0", "application/json"),
        ("text/html, application/problem+jsonx", "application/json"),
        ("\x00;;q=,", "application/json"),
    ],
)
def test_the_media_type_is_the_one_asked_for(accept: str, expected: str) -> None:
    for error in (TooLargeError("too much"), NotFound()):
        response = error_response(error, "an-id", accept)
        assert dict(response.headers)["Content-Type"] == expected


def test_a_defect_is_logged_without_its_message(caplog: pytest.LogCaptureFixture) -> None:
    """str() of a KeyError or a UnicodeDecodeError quotes the request."""
    with caplog.at_level(logging.ERROR):
        status, body, _ = response_of(raised())
    assert status == 500
    assert SECRET not in json.dumps(body)
    assert SECRET not in caplog.text
    (record,) = caplog.records
    frames = vars(record)["traceback"]
    assert SECRET not in frames
    assert "builtins.RuntimeError\n" in frames
    assert "caused by builtins.KeyError\n" in frames
    assert ", in fail\n" in frames
    assert all(each.exc_info is None for each in caplog.records)


SECRET = "s3cret"


def raised() -> RuntimeError:
    """Return an error with frames and a cause, both of which quote a request."""
    with pytest.raises(RuntimeError) as caught:
        fail(SECRET)
    return caught.value


def fail(password: str) -> None:
    passwords: dict[str, str] = {}
    try:
        passwords[password]
    except KeyError as error:
        raise RuntimeError(password) from error


def test_addresses_of_stores_are_not_disclosed() -> None:
    """The message of a connection error holds addresses and users."""
    for error in (
        psycopg.OperationalError("connection to 10.0.0.1, user iot failed"),
        redis.exceptions.ConnectionError("10.0.0.1:6379"),
    ):
        assert "10.0.0.1" not in json.dumps(response_of(error)[1])


@pytest.mark.parametrize("kind", default_exceptions.values(), ids=lambda kind: kind.__name__)
def test_every_error_of_http_is_json(kind: type[HTTPException]) -> None:
    error = kind()
    status, body, _ = response_of(error)
    assert status == error.code
    assert body["code"] in set(ErrorCode)
    assert "<" not in str(body["error"])


def test_an_error_of_a_view_is_answered(app: Flask) -> None:
    @app.get("/x")
    def view() -> str:
        raise IotError("it went wrong")

    answer = app.test_client().get("/x")
    assert (answer.status_code, answer.get_json()["error"]) == (500, "it went wrong")
