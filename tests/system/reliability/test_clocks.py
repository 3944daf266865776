"""Redis lost its data, was restored from a copy, or its clock jumped. Readings acknowledged
afterwards are stored exactly once and in order of arrival.
"""

import dataclasses
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from integration.writer.sending import Sender
from iot_models.settings import Settings
from iot_tools.local.redis_server import RedisServer
from iot_writer.maintenance.sweep import sweep
from iot_writer.writer import Writer
from support.draining import drain_all
from support.keys import KEYS
from support.stack import MakeStack
from support.waiting import wait_until
from system.reliability.devices import Fleet

PASSWORDS = [b"one", b"two", b"three"]
YEAR_MS = 366 * 86_400_000


@pytest.fixture(params=["aof", "rdb"])
def redis(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis for one test, with an AOF or with snapshots."""
    config = ["appendonly no"] if request.param == "rdb" else []
    server = RedisServer(tmp_path / "redis", appendfsync="always", config=config)
    server.start()
    yield server
    server.kill()


@pytest.fixture
def settings(settings: Settings, redis: RedisServer) -> Settings:
    """Settings with that Redis."""
    return dataclasses.replace(settings, redis_url=redis.url)


def send(sender: Sender, count: int = 2) -> None:
    for password in PASSWORDS:
        sender.send(password, count)
        sender.send(password)


def data_files(redis: RedisServer) -> list[Path]:
    """Return the data files. From Redis 7 on, the AOF is a directory with several files."""
    directory = redis.directory
    files = [*directory.glob("*.aof"), *directory.glob("*.rdb"), *directory.glob("append*/*")]
    return [path for path in files if path.is_file()]


def saved(redis: RedisServer, sender: Sender) -> None:
    """Stop Redis with all data on disk."""
    sender.redis.save()
    redis.stop()


def wiped(redis: RedisServer, sender: Sender) -> None:
    """Stop Redis, delete its data, and start it empty."""
    saved(redis, sender)
    for path in data_files(redis):
        path.unlink()
    redis.start()
    assert not sender.redis.dbsize()


def test_an_empty_redis_continues(redis: RedisServer, sender: Sender, writer: Writer) -> None:
    for _ in range(3):
        send(sender)
        drain_all(writer)
        wiped(redis, sender)
    send(sender)
    drain_all(writer)
    sender.check_all()
    assert sender.waiting() == 0


def test_a_redis_restored_from_an_older_copy_stores_nothing_twice(
    redis: RedisServer, sender: Sender, writer: Writer, tmp_path: Path
) -> None:
    send(sender)
    drain_all(writer)
    send(sender)  # in the backlog of the copy, and stored before the restore
    saved(redis, sender)
    copy = tmp_path / "copy"
    for path in data_files(redis):
        target = copy / path.relative_to(redis.directory)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, target)
    redis.start()
    send(sender)
    drain_all(writer)
    sender.check_all()
    saved(redis, sender)
    for path in data_files(redis):
        path.unlink()
    shutil.copytree(copy, redis.directory, dirs_exist_ok=True)
    redis.start()
    assert sender.waiting() == 2 * len(PASSWORDS), "Redis does not have the data of the copy"
    send(sender)
    drain_all(writer)
    sender.check_all()
    assert sender.waiting() == 0


def test_readings_lost_with_redis_leave_the_others_in_order(
    redis: RedisServer, sender: Sender, writer: Writer
) -> None:
    """Readings that were acknowledged but not drained are lost with the data of Redis."""
    sender.send(b"one", 3)
    drain_all(writer)
    sender.send(b"one", 2)
    wiped(redis, sender)
    sender.send(b"one", 3)
    drain_all(writer)
    assert sender.texts(b"one") == ["0", "1", "2", "5", "6", "7"]
    ids = [reading.id for reading in sender.readings(b"one")]
    assert ids == sorted(set(ids))


def jump(sender: Sender, password: bytes, milliseconds: int) -> None:
    """Add an entry with the id of a clock that is ahead. Later entries get ids after it."""
    number = sender.numbers.get(password, 0)
    shard, sealed = sender.seal(password, [number])
    entry_id = f"{int(time.time() * 1000) + milliseconds}-0"
    total = sender.redis.hincrby(KEYS.backlog_counters, f"in:{shard}", len(sealed))
    sender.redis.hincrby(KEYS.backlog_counters, "bytes", len(sealed))
    sender.redis.xadd(KEYS.stream(shard), {"e": sealed, "t": total}, id=entry_id)
    sender.numbers[password] = number + 1


@pytest.mark.parametrize("ahead", [5_000, 40 * 86_400_000, 5 * YEAR_MS])
def test_readings_are_stored_after_a_clock_steps_back(
    sender: Sender, writer: Writer, ahead: int
) -> None:
    send(sender)
    for place, password in enumerate(PASSWORDS):
        jump(sender, password, ahead + place)
    send(sender)
    drain_all(writer)
    send(sender)
    drain_all(writer)
    sender.check_all()
    for password in PASSWORDS:
        assert sender.last_seconds(password, 60) == sender.texts(password)
    assert sender.waiting() == 0


def test_an_empty_redis_continues_after_stored_ids_from_the_future(
    redis: RedisServer, sender: Sender, writer: Writer
) -> None:
    for place, password in enumerate(PASSWORDS):
        jump(sender, password, YEAR_MS + place)
    drain_all(writer)
    wiped(redis, sender)
    send(sender)
    drain_all(writer)
    send(sender)
    drain_all(writer)
    sender.check_all()
    for password in PASSWORDS:
        assert sender.last_seconds(password, 60) == sender.texts(password)


def test_the_sweep_finds_entries_from_the_future(sender: Sender, writer: Writer) -> None:
    """The drain of the entries was lost with its writer."""
    jump(sender, b"one", YEAR_MS)
    assert not sender.redis.llen(KEYS.job_list)
    assert sweep(writer.backlog) == 1
    assert sender.backlog.state().oldest_seconds == 0


@pytest.mark.parametrize("redis", ["aof"], indirect=True)
def test_devices_continue_after_redis_lost_its_data(
    make_stack: MakeStack, redis: RedisServer
) -> None:
    stack = make_stack({"IOT_REDIS_URL": redis.url}, writers=2)
    with Fleet(4, [stack.port]) as fleet:
        redis.kill()
        wait_until(lambda: all(503 in each.statuses for each in fleet.devices), what="503")
        for device in fleet.devices:
            device.acknowledged.clear()  # Redis lost the undrained readings
        for path in data_files(redis):
            path.unlink()
        began = time.monotonic()
        redis.start()
        fleet.go_on()
    print(f"acknowledged again {time.monotonic() - began:.1f} s after Redis started")
    for device in fleet.devices:
        assert set(device.statuses) <= {201, 503}
    fleet.check(stack.read)
