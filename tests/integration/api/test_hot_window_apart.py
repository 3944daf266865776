"""Readings are accepted, stored and read while the separate Redis of the hot window is away."""

import dataclasses
import json
import signal
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import psycopg
import pytest
from redis import Redis
from redis.exceptions import RedisError

from integration.api.asking import JSON, PASSWORD, Api, row, sample
from integration.api.conftest import MakeApi
from integration.api.test_hot_window_reads import source_of
from integration.api.test_vault_erasure import erase
from iot_models.settings import Settings
from iot_tools.local.redis_server import RedisServer
from iot_writer import writer as writer_module
from iot_writer.writer import Writer
from support.draining import drain_all
from support.keys import KEYS
from support.stack import Stack
from support.waiting import stretched, wait_until


@pytest.fixture
def apart(settings: Settings, own_redis: RedisServer) -> Settings:
    """Settings with a separate Redis for the hot window."""
    return dataclasses.replace(settings, hot_window_redis_url=own_redis.url)


@pytest.fixture
def hot_api(make_api: MakeApi, apart: Settings) -> Api:
    return make_api(hot_window_redis_url=apart.hot_window_redis_url)


@pytest.fixture
def hot(own_redis: RedisServer) -> Iterator["Redis"]:
    """A client of the Redis that holds the hot window."""
    with Redis.from_url(own_redis.url) as client:
        yield client


@pytest.fixture
def hot_writer(apart: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Writer]:
    """A writer that retries the hot window at each drain."""
    monkeypatch.setattr(writer_module, "HOT_WINDOW_PAUSE_SECONDS", 0.0)
    made = Writer(apart)
    yield made
    made.close()


class Story:
    """Readings that are sent and stored one by one."""

    def __init__(self, api: Api, writer: Writer) -> None:
        self.api = api
        self.writer = writer
        self.texts: list[str] = []

    def store(self) -> None:
        """Send and store one reading; the backlog is empty afterwards."""
        number = len(self.texts)
        answer = self.api.put(row(interrogator_time=number, freeform=number))
        assert answer.status_code == 201, answer.text
        drain_all(self.writer)
        assert sum(self.writer.backlog.state().entries.values()) == 0
        self.texts.append(str(number))

    def source(self) -> str:
        """Read the last minute, check that no reading is missing and return the source."""
        source, texts = source_of(self.api, "/seconds/60")
        assert texts == self.texts
        return source


@pytest.fixture
def story(hot_api: Api, hot_writer: Writer) -> Story:
    return Story(hot_api, hot_writer)


def ready(api: Api) -> dict[str, str]:
    answer = api.ask("GET", "/readyz")
    assert answer.status_code == 200, answer.text
    told: dict[str, str] = answer.get_json()
    return told


def test_the_hot_window_redis_holds_segments_only(
    story: Story, redis: "Redis", hot: "Redis"
) -> None:
    story.store()
    assert story.source() == "hot_window"
    assert not redis.keys("iot:hot:*")
    marks = [KEYS.owner.encode(), KEYS.owner_keyring.encode()]
    held = {key for key in cast("list[bytes]", hot.keys()) if key not in marks}
    assert held == set(cast("list[bytes]", hot.keys("iot:hot:*")))
    assert len(held) == 3
    assert ready(story.api)["hot_window"] == "ok"


def test_nothing_of_a_window_is_erased_while_the_hot_window_is_away(
    story: Story, own_redis: RedisServer
) -> None:
    """The hot window may still have the readings when its Redis is back."""
    story.store()
    own_redis.stop()
    body = json.dumps({"data": {"db_password": PASSWORD}})
    answer = story.api.ask("DELETE", "/api/iot/-1/0", body, JSON)
    assert (answer.status_code, answer.get_json()["code"]) == (503, "unavailable")
    assert [each["freeform"] for each in story.api.read()] == story.texts
    own_redis.start()
    assert story.api.ask("DELETE", "/api/iot/-1/0", body, JSON).get_json() == {"erased": 1}
    assert story.api.read() == []


def test_segments_of_erased_vaults_are_deleted_while_the_hot_window_is_away(
    hot_api: Api,
    hot_writer: Writer,
    own_redis: RedisServer,
    hot: "Redis",
    postgres: psycopg.Connection,
) -> None:
    passwords = ("first", "second")
    hot_api.put([row(password) for password in passwords])
    drain_all(hot_writer)
    own_redis.stop()
    for password in passwords:
        assert erase(hot_api, password).status_code == 200
    deletion = hot_writer.vault_deletion
    with pytest.raises(RedisError):
        deletion.run(hot_writer.postgres())
    assert postgres.execute("SELECT FROM segments").rowcount == 0
    assert not deletion.run(hot_writer.postgres())  # pauses
    own_redis.start()
    deletion._paused_until = 0.0  # noqa: SLF001 - as if the pause was over
    deletion.run(hot_writer.postgres())
    assert not hot.keys("iot:hot:segment:*")


def test_an_evicting_redis_is_not_used(story: Story, hot: "Redis") -> None:
    """The service could not detect an evicted index."""
    story.store()
    assert story.source() == "hot_window"
    hot.config_set("maxmemory-policy", "allkeys-lru")
    assert "its maxmemory-policy is allkeys-lru" in ready(story.api)["hot_window"]
    story.writer.hot_watch.check()  # the thread of the watch does this
    assert story.source() == "postgres"
    keys = set(cast("list[bytes]", hot.keys("iot:hot:*")))
    story.store()
    assert set(cast("list[bytes]", hot.keys("iot:hot:*"))) == keys
    assert story.source() == "postgres"
    hot.config_set("maxmemory-policy", "noeviction")
    assert ready(story.api)["hot_window"] == "ok"
    story.writer.hot_watch.check()
    story.store()
    assert story.source() == "postgres"  # until the window is complete again


def test_the_redis_of_another_installation_is_not_used(story: Story, hot: "Redis") -> None:
    hot.set(KEYS.owner, str(uuid.uuid4()))
    told = ready(story.api)["hot_window"]
    assert "the hot window's Redis belongs to the installation" in told
    assert "IOT_HOT_WINDOW_REDIS_URL" in told
    story.store()
    assert story.source() == "postgres"
    assert hot.keys() == [KEYS.owner.encode()]


def test_one_url_for_both_uses_one_client(make_api: MakeApi, settings: Settings) -> None:
    api = make_api(hot_window_redis_url=settings.redis_url)
    assert "hot_window" not in ready(api)


def test_redis_returns_unchanged(story: Story, own_redis: RedisServer) -> None:
    """The window lacks readings stored meanwhile and must not claim to be complete."""
    story.store()
    assert story.source() == "hot_window"
    missed = sample("iot_hot_window_missed_total")
    own_redis.stop()
    story.store()
    story.store()
    assert sample("iot_hot_window_missed_total") == missed + 2
    assert story.source() == "postgres"
    told = ready(story.api)
    assert (told["status"], told["redis"], told["hot_window"]) == ("ready", "ok", "away")

    own_redis.start()
    assert ready(story.api)["hot_window"] == "ok"
    assert story.source() == "postgres"  # until the next drain updates the coverage
    story.store()
    assert story.source() == "postgres"  # the coverage is shorter than a minute
    asked = time.monotonic()

    def covered() -> bool:
        return source_of(story.api, "/seconds/1")[0] == "hot_window"

    wait_until(covered, what="coverage of the last second")
    assert time.monotonic() - asked < stretched(5)


def test_redis_returns_empty(story: Story, own_redis: RedisServer, hot: "Redis") -> None:
    story.store()
    own_redis.stop()
    story.store()
    own_redis.start()
    hot.flushall()
    assert story.source() == "postgres"
    story.store()
    assert story.source() == "postgres"


def test_redis_returns_with_older_data(story: Story, hot: Any) -> None:
    """Redis lost the last second of its AOF in a crash, or was restored from a backup."""
    story.store()
    held = {key: hot.dump(key) for key in hot.scan_iter()}
    story.store()
    assert story.source() == "hot_window"
    hot.flushall()
    for key, dumped in held.items():
        hot.restore(key, 0, dumped)
    assert story.source() == "postgres"
    story.store()
    assert story.source() == "postgres"


def test_redis_is_frozen(
    make_api: MakeApi, apart: Settings, own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The writer waits for one timeout, then skips the hot window; readiness hardly waits."""
    api, writer = make_api(hot_window_redis_url=apart.hot_window_redis_url), Writer(apart)
    story = Story(api, writer)
    story.store()
    own_redis.kill(signal.SIGSTOP)
    try:
        began = time.monotonic()
        for _ in range(5):
            story.store()
        assert time.monotonic() - began < stretched(6)
        began = time.monotonic()
        told = ready(api)
        assert told["hot_window"] == "away"
        assert time.monotonic() - began < stretched(2)
        assert story.source() == "postgres"
    finally:
        own_redis.kill(signal.SIGCONT)
    assert story.source() == "postgres"
    monkeypatch.setattr(writer.drain, "_hot_window_paused_until", 0.0)  # end the pause
    story.store()
    assert story.source() == "postgres"
    writer.close()


@pytest.mark.parametrize(
    ("command", "source"), [("zrangebyscore", "postgres"), ("mget", "hot_window")]
)
def test_redis_goes_away_during_a_read(command: str, source: str, story: Story, hot: Any) -> None:
    """Data that Redis does not return comes from Postgres."""
    for _ in range(3):
        story.store()
    hot.execute_command("ACL", "SETUSER", "default", f"-{command}")
    assert story.source() == source  # the source of the first part; no reading is missing
    hot.execute_command("ACL", "SETUSER", "default", "+@all")
    assert story.source() == "hot_window"


def test_redis_is_full(story: Story, hot: "Redis") -> None:
    story.store()
    hot.config_set("maxmemory", 1)
    story.store()
    assert story.source() == "postgres"
    hot.config_set("maxmemory", 0)
    story.store()
    assert story.source() == "postgres"


def test_the_backlog_redis_is_away(
    make_api: MakeApi, settings: Settings, own_redis: RedisServer, redis_server: RedisServer
) -> None:
    """Without the backlog's Redis, the hot window can't be proven complete."""
    changes: dict[str, Any] = {"redis_url": own_redis.url, "hot_window_redis_url": redis_server.url}
    api = make_api(**changes)
    writer = Writer(dataclasses.replace(settings, **changes))
    story = Story(api, writer)
    story.store()
    assert story.source() == "hot_window"
    own_redis.stop()
    assert story.source() == "postgres"
    answer = api.ask("GET", "/readyz")
    assert answer.status_code == 503
    assert answer.get_json()["hot_window"] == "ok"
    own_redis.start()
    assert story.source() == "hot_window"
    writer.close()


def test_outages_of_the_hot_window_lose_no_reading(
    environment: dict[str, str], own_redis: RedisServer, tmp_path: Path
) -> None:
    """Each reading is acknowledged and read back while that Redis fails and returns."""
    (tmp_path / "hot").write_text(own_redis.url, encoding="utf-8")
    given = {**environment, "IOT_HOT_WINDOW_REDIS_URL_FILE": str(tmp_path / "hot")}
    stack = Stack(given, tmp_path)
    sent: list[str] = []

    def send() -> None:
        for _ in range(5):
            rows = [row(interrogator_time=len(sent), freeform=len(sent))]
            answer = stack.request("PUT", "/api/iot?ack=stored", json.dumps(rows), JSON)
            assert answer.status == 201, answer.body
            sent.append(str(len(sent)))
            for path in ("/seconds/60", "/seconds/1", ""):
                texts = [each["freeform"] for each in stack.read("p", path)]
                assert texts == sent[len(sent) - len(texts) :], path
                assert path == "/seconds/1" or len(texts) == len(sent)

    try:
        stack.start_api()
        stack.start_writer()
        send()
        own_redis.kill()
        wait_until(lambda: not own_redis.running)
        send()
        own_redis.start()
        send()
    finally:
        stack.stop()
