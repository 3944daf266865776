"""Redis comes back with older data: reads do not use what the hot window had before."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from integration.writer.sending import SENDER, Sender
from iot_models.settings import Settings, load
from iot_tools.local.redis_server import RedisServer
from iot_writer.writer import Writer
from support.draining import drain_all
from support.keys import KEYS
from support.waiting import wait_until

PASSWORD = b"p"


class Store:
    """A Redis that can be restored to its state at an earlier time."""

    def __init__(self, directory: Path) -> None:
        self.server = RedisServer(directory / "redis")
        self._backup = directory / "backup"

    def save(self) -> None:
        shutil.copytree(self.server.directory, self._backup)

    def come_back_older(self) -> None:
        self.server.stop()
        shutil.rmtree(self.server.directory)
        self._backup.rename(self.server.directory)
        self.server.start()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(tmp_path)
    made.server.start()
    yield made
    made.server.stop()


@pytest.fixture(params=["IOT_REDIS_URL", "both"])
def settings(store: Store, environment: dict[str, str], request: pytest.FixtureRequest) -> Settings:
    given = {"IOT_REDIS_URL": store.server.url}
    if request.param == "both":
        given["IOT_HOT_WINDOW_REDIS_URL"] = store.server.url.replace("/0", "/1")
    return load(environment | given)


@pytest.fixture
def rolled_back(sender: Sender, writer: Writer) -> Sender:
    """A sender that has stored one reading."""
    sender.send(PASSWORD)
    drain_all(writer)
    return sender


def test_a_cover_is_not_valid_in_a_redis_with_older_data(
    store: Store, writer: Writer, rolled_back: Sender
) -> None:
    sender, shard = rolled_back, rolled_back.shard(PASSWORD)
    window = writer.stores.hot_window
    store.save()
    sender.send(PASSWORD, 2)
    drain_all(writer)
    assert window.covers([shard])[shard] > 0
    store.come_back_older()
    assert window.covers([shard]) == {shard: 0}
    assert sender.last_seconds(PASSWORD, 60) == ["0", "1", "2"]
    sender.send(PASSWORD)
    drain_all(writer)
    assert sender.last_seconds(PASSWORD, 60) == ["0", "1", "2", "3"]
    wait_until(lambda: 0 < window.covers([shard])[shard] < 60, what="a new cover")


def test_erased_readings_do_not_come_back(
    store: Store, writer: Writer, rolled_back: Sender
) -> None:
    sender = rolled_back
    store.save()
    assert sender.service.range_eraser.erase(PASSWORD, 0, 10, SENDER) == 1
    store.come_back_older()
    for _ in range(2):
        assert sender.last_seconds(PASSWORD, 60) == []
        writer.outdated_covers.replace()


def test_a_shard_without_new_entries_gets_a_new_cover(
    store: Store, writer: Writer, rolled_back: Sender
) -> None:
    sender, shard = rolled_back, rolled_back.shard(PASSWORD)
    window = writer.stores.hot_window
    assert window.outdated([shard]) == []
    store.server.stop()
    writer.outdated_covers.replace()  # Redis is away
    store.server.start()
    assert window.outdated([shard]) == [shard]
    writer.outdated_covers.replace()
    assert window.outdated([shard]) == []
    wait_until(lambda: 0 < window.covers([shard])[shard] < 60, what="a new cover")
    since = writer.hot_redis.hget(KEYS.hot_cover(shard), "since")
    sender.send(PASSWORD)
    drain_all(writer)
    assert writer.hot_redis.hget(KEYS.hot_cover(shard), "since") == since
    assert sender.last_seconds(PASSWORD, 60) == ["0", "1"]
