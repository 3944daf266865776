"""`GET /api/status`: the operator's figures. Each is also a metric."""

import dataclasses
import re
from collections.abc import Iterator
from typing import Any

import pytest
from redis import Redis

from chart.expressions import mistakes
from integration.api.asking import Api, row
from integration.api.conftest import MakeApi
from iot_api.server.metrics_server import BacklogCollector
from iot_models.figures import FIGURES
from iot_models.settings import Settings
from iot_stores import process_reports
from iot_stores.stores import Stores
from iot_stores.stream_entries import WaitingEntry
from iot_tools.local.postgres_server import PostgresServer
from iot_tools.local.redis_server import RedisServer
from iot_writer.writer import Writer
from support.draining import drain_all
from support.waiting import wait_until

NO_FIGURES = re.compile(r"time|(shards\[\]\.shard|keys\[\]\.id)|dead_letters\.oldest.*")
"""Numbers that identify something, or are times of events."""


def figures(value: object, path: str = "") -> Iterator[str]:
    """Yield the path of each number and boolean."""
    if isinstance(value, dict):
        for name, each in value.items():
            yield from figures(each, f"{path}.{name}".lstrip("."))
    elif isinstance(value, list):
        for each in value:
            yield from figures(each, f"{path}[]")
    elif isinstance(value, int | float) and not NO_FIGURES.fullmatch(path):
        yield path


def stores(api: Api) -> Stores:
    return api.service.stores


def report(of: Stores) -> None:
    """Let a process report what is due."""
    for step in of.watcher.after_checks:
        step()


def status(api: Api) -> dict[str, Any]:
    answer = api.ask("GET", "/api/status")
    assert answer.status_code == 200, answer.text
    content: dict[str, Any] = answer.get_json()
    return content


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a heartbeat due at each check of Redis."""
    monkeypatch.setattr(process_reports, "REPORT_SECONDS", 0)


def drain(api: Api, writer: Writer) -> None:
    """Drain all shards, and send the heartbeats."""
    writer.drain_shards(range(8))
    report(stores(api))
    report(writer.stores)


@pytest.mark.usefixtures("often")
def test_each_figure_is_a_declared_metric(api: Api, writer: Writer) -> None:
    api.put(row())
    drain(api, writer)
    assert {path for path in figures(status(api)) if path not in FIGURES} == set()
    assert set(FIGURES) == set(figures(status(api)))
    assert {path: said for path, query in FIGURES.items() if (said := mistakes(query))} == {}


def test_each_gauge_of_all_processes_is_a_figure(api: Api) -> None:
    """What the metrics server reads from Redis is in the status, except the state of Redis."""
    exported = {family.name for family in BacklogCollector(stores(api)).collect()}
    shown = set(re.findall(r"iot_[a-z_]+", " ".join(FIGURES.values())))
    others = {"iot_backlog_up", "iot_api_clock_skew_seconds", "iot_api_build_info"}
    assert exported - shown == others


@pytest.mark.usefixtures("often")
def test_the_status_of_a_service_in_use(api: Api, writer: Writer) -> None:
    report(stores(api))
    report(writer.stores)
    api.put([row() for _ in range(500)])
    shown = status(api)
    assert shown["stores"] == {"redis": "ok", "postgres": "ok"}
    assert shown["backlog"]["entries"] == 1
    assert 0 < shown["backlog"]["bytes"] < shown["backlog"]["limit_bytes"]
    (shard,) = (each for each in shown["shards"] if each["entries"])
    assert shard["drained_by"] is None
    assert shard["hot_window_seconds"] is None

    drain(api, writer)
    shown = status(api)
    drained = shown["shards"][shard["shard"]]
    (process,) = shown["writers"]
    assert drained["drained_by"] == process["name"]
    assert drained["entries"] == 0
    assert drained["hot_window_seconds"] == shown["hot_window"]["seconds"]
    assert process["heartbeat_seconds"] < 15
    assert shown["rates"]["readings_in"] > 10
    assert shown["rates"]["readings_out"] > 10
    assert shown["keys"] == [{"id": 1, "primary": True, "api": True, "writers": True}]
    assert shown["schema"] == {"revision": 4}


def test_dead_letters_have_their_reasons(api: Api) -> None:
    letters = stores(api).dead_letters
    for number in range(25):
        letters.add(3, WaitingEntry(b"%d-0" % number, b"x", 1, 0), f"reason {number}")
    shown = status(api)["dead_letters"]
    assert shown["count"] == 25
    assert [each["reason"] for each in shown["oldest"]] == [f"reason {n}" for n in range(20)]
    assert shown["oldest"][0]["shard"] == 3


def test_large_dead_letters_are_not_all_fetched(api: Api) -> None:
    """The answer to a status must not take the memory of the process."""
    letters = stores(api).dead_letters
    for number in range(4):
        letters.add(3, WaitingEntry(b"%d-0" % number, bytes(3 * 2**20), 1, 0), "large")
    assert len(letters.oldest(20)) == 2


def test_the_cover_ends_where_the_hot_window_lacks_a_drain(
    api: Api, writer: Writer, redis: "Redis"
) -> None:
    api.put(row())
    drain_all(writer)
    (shard,) = stores(api).hot_window.covers(range(8))
    assert stores(api).hot_window.covers([shard])[shard] > 0
    redis.hset(stores(api).names.hot_cover(shard), "position", "1-0")
    assert stores(api).hot_window.covers([shard]) == {shard: 0}


def test_redis_away(make_api: MakeApi, own_redis: RedisServer) -> None:
    api = make_api(redis_url=own_redis.url)
    assert status(api)["backlog"]["entries"] == 0
    own_redis.kill()
    wait_until(lambda: not own_redis.running)
    shown = status(api)
    assert shown["stores"]["redis"] == "away"
    assert shown["schema"] == {"revision": 4}
    assert set(shown) == {"time", "version", "stores", "schema"}


def test_the_hot_window_away(make_api: MakeApi, settings: Settings, own_redis: RedisServer) -> None:
    api = make_api(hot_window_redis_url=own_redis.url)
    api.put(row())
    with_window = Writer(dataclasses.replace(settings, hot_window_redis_url=own_redis.url))
    drain_all(with_window)
    with_window.close()
    assert status(api)["hot_window"]["covered_seconds"] > 0
    own_redis.kill()
    wait_until(lambda: not own_redis.running)
    shown = status(api)
    assert shown["hot_window"]["covered_seconds"] is None
    assert shown["backlog"]["entries"] == 0


def test_postgres_away(make_api: MakeApi, own_postgres: PostgresServer) -> None:
    api = make_api(postgres_url=own_postgres.url)
    own_postgres.stop()
    shown = status(api)
    assert shown["stores"]["postgres"] == "away"
    assert "schema" not in shown
    assert shown["backlog"]["entries"] == 0
