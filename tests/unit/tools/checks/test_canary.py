"""The canary reads under a password that other clients may use."""

from typing import Any

import pytest

from iot_sensor_client import Client
from iot_tools.checks.canary import Canary


def test_readings_of_other_clients_are_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["7" * 5000, "[" * 100_000, "null", '{"canary": 2}', '{"canary": 1, "counted": []}']

    def read(_: Client, *, start: int, end: int) -> list[dict[str, Any]]:
        assert start <= 1 <= end
        return [{"relative_timestamp": 1, "freeform": text} for text in texts]

    monkeypatch.setattr(Client, "max_relative_time", lambda _: 1)
    monkeypatch.setattr(Client, "read", read)
    canary = Canary("http://127.0.0.1:1", "p", token=lambda: "", every=1, grace=1)
    assert canary.resume()
    canary.check()
