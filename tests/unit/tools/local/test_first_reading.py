"""The first reading must be from this run, not from an earlier run."""

import shlex
from collections.abc import Iterable, Mapping
from http.client import HTTPMessage
from typing import Any

import pytest

from iot_sensor_client import Client, NoResponseError, RejectedError, Response, RetryableError
from iot_tools.local.first_reading import FirstReading, curl_that_reads, curl_that_sends

SINCE = 1_763_877_000.0


class FakeClient(Client):
    """A service that answers reads with the given answers, one after the other."""

    def __init__(self, *answers: list[dict[str, Any]] | Exception) -> None:
        super().__init__("http://127.0.0.1:1", "demo")
        self._answers = list(answers)
        self.refusals: list[Exception] = []
        """Errors of the first attempts to send."""
        self.sent: list[tuple[int, str | None]] = []

    def put_readings(
        self, readings: Iterable[Mapping[str, Any]], *, idempotency_key: str | None = None
    ) -> Response:
        """Record the call, or raise the next error."""
        if self.refusals:
            raise self.refusals.pop(0)
        self.sent.append((len(list(readings)), idempotency_key))
        return Response(201, HTTPMessage(), b"")

    def read(self, *, last: int | None = None, **_: int | None) -> list[dict[str, Any]]:
        """Return the next answer."""
        assert last == 1
        answer = self._answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def rows(time: float) -> list[dict[str, Any]]:
    return [{"interrogator_timestamp": round(time * 1_000_000)}]


def nap(_: float) -> None:
    """Return at once."""


def test_old_readings_empty_answers_and_errors_are_skipped() -> None:
    errors = (RetryableError("503"), RejectedError("400"))
    client = FakeClient([], rows(SINCE - 1), *errors, rows(SINCE + 1))
    assert FirstReading(client, since=SINCE, send=False).wait(nap, 30)
    assert client.sent == []


def test_the_wait_times_out() -> None:
    client = FakeClient([])
    assert not FirstReading(client, since=SINCE, send=False).wait(nap, 0)


def test_a_refused_token_ends_the_wait() -> None:
    refused = RetryableError("401", Response(401, HTTPMessage(), b""))
    first = FirstReading(FakeClient(refused), since=SINCE, send=False)
    assert not first.wait(nap, 30)
    assert first.refused


def test_a_reading_is_sent_if_no_device_sends() -> None:
    client = FakeClient([], [], rows(SINCE + 1))
    client.refusals = [RetryableError("503"), NoResponseError("timed out")]
    assert FirstReading(client, since=SINCE, send=True).wait(nap, 30)
    assert [count for count, _ in client.sent] == [1]


@pytest.mark.parametrize(("scheme", "insecure"), [("http", False), ("https", True)])
def test_the_commands_can_be_pasted(scheme: str, insecure: bool) -> None:
    url = f"{scheme}://127.0.0.1:5000"
    for command in (curl_that_sends(url), curl_that_reads(url)):
        words = shlex.split(command)
        assert words[0] == "curl"
        assert ("-k" in words) is insecure
        assert "\n" not in command
    assert curl_that_reads(url, token=True).endswith('"Authorization: Bearer $IOT_TOKEN"')
