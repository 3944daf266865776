"""The proof is a reading of now, not one of an earlier run."""

import shlex
from collections.abc import Sequence
from typing import Any

import pytest

from iot_tools.checks.http_client import ApiClient, NotDeliveredError, RefusedError
from iot_tools.local.first_reading import FirstReading, curl_that_reads, curl_that_sends

SINCE = 1_763_877_000.0


class Client(ApiClient):
    """A service that answers reads with what it is given, in turn."""

    def __init__(self, *answers: list[dict[str, Any]] | Exception) -> None:
        super().__init__("http://127.0.0.1:1", "demo")
        self._answers = list(answers)
        self.sent: list[tuple[int, str]] = []

    def put(self, readings: Sequence[Any], key: str) -> None:
        """Take note of it."""
        self.sent.append((len(readings), key))

    def last(self, count: int) -> list[dict[str, Any]]:
        """The next answer."""
        assert count == 1
        answer = self._answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def rows(time: float) -> list[dict[str, Any]]:
    return [{"interrogator_timestamp": round(time * 1_000_000)}]


def nap(_: float) -> None:
    """No time passes."""


def test_an_older_reading_or_none_or_an_error_proves_nothing() -> None:
    errors = (NotDeliveredError("503"), RefusedError("400"))
    client = Client([], rows(SINCE - 1), *errors, rows(SINCE + 1))
    assert FirstReading(client, since=SINCE, send=False).wait(nap, 30)
    assert client.sent == []


def test_it_gives_up() -> None:
    client = Client([])
    assert not FirstReading(client, since=SINCE, send=False).wait(nap, 0)


def test_it_sends_one_itself_if_no_device_does() -> None:
    client = Client([], [], rows(SINCE + 1))
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
