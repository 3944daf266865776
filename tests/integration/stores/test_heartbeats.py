"""Heartbeats: what running processes report, for rates and for who drains a shard."""

from pathlib import Path
from typing import Any, cast

import pytest
from redis import Redis

from iot_cipher.keyring import KeyringFile
from iot_models import metrics
from iot_models.errors import UnavailableError
from iot_stores import process_reports
from iot_stores.heartbeats import KEEP_SECONDS, HeartbeatSender, read_heartbeats
from support.keys import KEYS
from support.waiting import wait_until


@pytest.fixture
def keyring(keyring_file: Path) -> KeyringFile:
    """The keyring of the processes."""
    return KeyringFile(keyring_file)


def planted(redis: "Redis", process: str, seconds_ago: float, readings: float) -> None:
    """Add the heartbeat of an API process, as it was some seconds ago."""
    seconds, micros = redis.time()
    moment = int(1000 * (seconds + micros / 1e6 - seconds_ago))
    content = (
        f'{{"service": "api", "process": "{process}", "drained": {{}}, "keys": [1], '
        f'"primary_key": 1, "totals": {{"readings_in": {readings}}}}}'
    )
    redis.xadd(KEYS.heartbeats, {"heartbeat": content}, id=f"{moment}-*")


def test_rates_are_summed_over_running_processes(redis: "Redis") -> None:
    for content in ({"a": "b"}, {"heartbeat": "no JSON"}, {"heartbeat": "[]"}):
        redis.xadd(KEYS.heartbeats, cast("dict[Any, Any]", content), id="1-*")
    planted(redis, "ended:1", 29, 0)
    planted(redis, "a:1", 20, 100)
    planted(redis, "ended:1", 16, 5000)
    planted(redis, "a:1", 15, 600)
    planted(redis, "b:2", 10, 7)
    planted(redis, "a:1", 10, 1100)
    planted(redis, "b:2", 5, 57)
    planted(redis, "new:3", 1, 900)
    found = read_heartbeats(redis, KEYS)
    assert [beat.process for beat in found.latest("api")] == ["a:1", "b:2", "new:3"]
    assert found.rate("readings_in", "a:1") == pytest.approx(100, rel=0.01)
    assert found.rate("readings_in") == pytest.approx(110, rel=0.01)
    assert found.rate("readings_in", "new:3") == 0


def test_a_heartbeat_tells_what_a_process_does(redis: "Redis", keyring: KeyringFile) -> None:
    before = metrics.value_of("iot_readings_stored_total")
    metrics.counter("iot_readings_stored_total").inc(3)
    sender = HeartbeatSender(
        redis,
        KEYS,
        "writer",
        keyring.current,
        require_ownership=lambda: None,
        drained=lambda: {5: 2.0},
    )
    sender.report()
    sender.report()  # not due
    found = read_heartbeats(redis, KEYS)
    (beat,) = found.latest("writer")
    assert redis.xlen(KEYS.heartbeats) == 1
    assert beat.totals["readings_out"] == before + 3
    assert found.now - beat.drained_at[5] == pytest.approx(2000, abs=1500)
    assert (beat.keys, beat.primary_key) == ([1], 1)


def test_the_stream_keeps_the_last_seconds_only(
    redis: "Redis", keyring: KeyringFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock of Redis decides, whatever the clock of the process says."""
    monkeypatch.setattr(process_reports, "REPORT_SECONDS", 0)
    for number in range(50):
        planted(redis, "old:1", KEEP_SECONDS + 50 - number, 0)
    planted(redis, "recent:1", KEEP_SECONDS - 5, 0)
    sender = HeartbeatSender(redis, KEYS, "api", keyring.current, require_ownership=lambda: None)
    monkeypatch.setattr("time.time", lambda: 1.0)
    sender.report()
    sender.report()
    assert redis.xlen(KEYS.heartbeats) == 3


def test_the_stream_starts_again_after_the_clock_was_set_back(
    redis: "Redis", keyring: KeyringFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise, all new ids would be ahead of the clock, and no heartbeat would be removed."""
    monkeypatch.setattr(process_reports, "REPORT_SECONDS", 0)
    planted(redis, "ended:1", -3600, 0)
    sender = HeartbeatSender(redis, KEYS, "api", keyring.current, require_ownership=lambda: None)
    sender.report()
    wait_until(lambda: not redis.exists(KEYS.heartbeats), what="the end of the stream")
    sender.report()
    found = read_heartbeats(redis, KEYS)
    assert [beat.process for beat in found.latest("api")] == [process_reports.process_name()]


def test_no_heartbeat_goes_to_the_redis_of_others(redis: "Redis", keyring: KeyringFile) -> None:
    def foreign() -> None:
        raise UnavailableError("foreign")

    HeartbeatSender(redis, KEYS, "api", keyring.current, require_ownership=foreign).report()
    assert redis.xlen(KEYS.heartbeats) == 0
