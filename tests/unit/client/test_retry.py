"""Temporary failures are retried, with pauses that spread clients out."""

import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.client import HTTPMessage

import pytest

from iot_sensor_client import Client, NoResponseError, Response, RetryPolicy
from iot_tools.local.ports import free_port
from support.waiting import stretched
from unit.client.conftest import CLOSE, Server

QUICK = RetryPolicy(base_seconds=0.001)


def response(status: int = 503, **headers: str) -> Response:
    message = HTTPMessage()
    for name, value in headers.items():
        message[name.replace("_", "-")] = value
    return Response(status, message, b"")


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504, CLOSE])
def test_a_temporary_failure_is_retried(server: Server, status: int) -> None:
    server.answers = [(status, {}), (status, {}), (status, {})]
    with Client(server.url, retry=QUICK) as client:
        assert client.request("GET", "/").status == 200
    assert len(server.received) == 4


@pytest.mark.parametrize("status", [201, 308, 400, 401, 403, 404, 413, 415, 501])
def test_other_statuses_are_not_retried(server: Server, status: int) -> None:
    server.answers = [(status, {})]
    with Client(server.url, retry=QUICK) as client:
        assert client.request("GET", "/").status == status
    assert len(server.received) == 1


def test_the_last_response_is_returned_when_attempts_run_out(server: Server) -> None:
    server.answers = [(500, {}), (502, {}), (503, {})]
    with Client(server.url, retry=RetryPolicy(max_attempts=3, base_seconds=0.001)) as client:
        assert client.request("GET", "/").status == 503
    assert len(server.received) == 3


def test_a_service_that_stays_away() -> None:
    client = Client(f"http://127.0.0.1:{free_port()}", retry=QUICK)
    with pytest.raises(NoResponseError, match="ConnectionRefusedError") as lost:
        client.request("GET", "/")
    assert not lost.value.sent


def test_a_service_that_has_answered_before_it_went_away_has_got_the_request(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.answers = [(503, {})]
    with Client(server.url, retry=QUICK, keep_alive=False) as client:

        def stop(_: float) -> None:
            server.http.socket.close()

        monkeypatch.setattr(time, "sleep", stop)
        with pytest.raises(NoResponseError, match="ConnectionRefusedError") as lost:
            client.request("GET", "/")
    assert lost.value.sent


def test_retry_after_is_waited_for(server: Server) -> None:
    server.answers = [(503, {"Retry-After": "1"})]
    began = time.monotonic()
    with Client(server.url, retry=QUICK) as client:
        assert client.request("GET", "/").status == 200
    assert time.monotonic() - began >= 1


def test_a_retry_after_beyond_the_limit_ends_the_retries_at_once(server: Server) -> None:
    server.answers = [(503, {"Retry-After": "61"})]
    began = time.monotonic()
    with Client(server.url) as client:
        answer = client.request("GET", "/")
    assert (answer.status, answer.retry_after) == (503, 61)
    assert time.monotonic() - began < stretched(30)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        *[("0", 0), ("17", 17), ("", None), ("-1", None), ("soon", None)],
        *[("9" * 400, 3600), ("Fri, 31 Dec 9999 23:59:59 GMT", 3600)],
        ("Fri, 31 Dec 9999 23:59:59 -0100", None),
    ],
)
def test_retry_after_in_seconds(value: str, seconds: float | None) -> None:
    assert response(Retry_After=value).retry_after == seconds


def test_retry_after_as_a_date() -> None:
    now = datetime.now(UTC)
    later = response(Retry_After=format_datetime(now + timedelta(seconds=90), usegmt=True))
    assert later.retry_after is not None
    assert 60 < later.retry_after <= 90
    earlier = response(Retry_After=format_datetime(now - timedelta(seconds=90), usegmt=True))
    assert earlier.retry_after == 0
    assert response().retry_after is None


def test_pauses_are_random_and_their_limit_doubles() -> None:
    policy = RetryPolicy(base_seconds=1, max_pause_seconds=3)
    for attempt, limit in ((1, 1), (2, 2), (3, 3), (4, 3)):
        pauses = [policy.pause(attempt, 0, None) or 0.0 for _ in range(500)]
        assert 0 <= min(pauses) < 0.2 * limit
        assert 0.8 * limit < max(pauses) <= limit


def test_retry_after_is_the_shortest_pause() -> None:
    pauses = [RetryPolicy().pause(1, 0, 7) or 0.0 for _ in range(100)]
    assert min(pauses) >= 7
    assert max(pauses) <= 7.2
    assert len(set(pauses)) > 1


def test_when_to_give_up() -> None:
    policy = RetryPolicy(max_attempts=2, max_seconds=10)
    assert policy.pause(1, 5, None) is not None
    assert policy.pause(2, 5, None) is None
    assert policy.pause(1, 10.1, None) is None
    assert policy.pause(1, 5, 6) is None
