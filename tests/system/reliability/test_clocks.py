"""A Redis that lost what it had, has what it had before, or whose clock jumped: nothing that was
acknowledged since is lost, nothing is stored twice, and the order of arrival is kept.
"""

import dataclasses
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from integration.writer.sending import Sender, sending
from iot_models.settings import Settings
from iot_tools.local.redis_server import RedisServer
from iot_writer.maintenance.sweep import sweep
from iot_writer.writer import Writer
from support.draining import drain_all
from support.keys import KEYS
from support.waiting import wait_until
from system.reliability.conftest import MakeStack
from system.reliability.devices import Fleet

PASSWORDS = [b"one", b"two", b"three"]
YEAR_MS = 366 * 86_400_000


@pytest.fixture(params=["aof", "rdb"])
def redis(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis of the test's own, which keeps its data by either of its ways."""
    config = ["appendonly no"] if request.param == "rdb" else []
    server = RedisServer(tmp_path / "redis", appendfsync="always", config=config)
    server.start()
    yield server
    server.kill()


@pytest.fixture
def settings(settings: Settings, redis: RedisServer) -> Settings:
    """The stores, with that Redis."""
    return dataclasses.replace(settings, redis_url=redis.url)


@pytest.fixture
def sender(settings: Settings) -> Iterator[Sender]:
    """A way in and out."""
    with sending(settings) as made:
        yield made


def send(sender: Sender, count: int = 2) -> None:
    for password in PASSWORDS:
        sender.send(password, count)
        sender.send(password)


def data_files(redis: RedisServer) -> list[Path]:
    """The files of its data. From Redis 7 on the AOF is a directory of several."""
    directory = redis.directory
    files = [*directory.glob("*.aof"), *directory.glob("*.rdb"), *directory.glob("append*/*")]
    return [path for path in files if path.is_file()]


def saved(redis: RedisServer, sender: Sender) -> None:
    """Stop it with all of its data on disk."""
    sender.redis.save()
    redis.stop()


def wiped(redis: RedisServer, sender: Sender) -> None:
    """Stop it, take its data away, and start it empty."""
    saved(redis, sender)
    for path in data_files(redis):
        path.unlink()
    redis.start()
    assert not sender.redis.dbsize()


def test_a_redis_that_starts_empty(redis: RedisServer, sender: Sender, writer: Writer) -> None:
    for _ in range(3):
        send(sender)
        drain_all(writer)
        wiped(redis, sender)
    send(sender)
    drain_all(writer)
    sender.check_all()
    assert sender.waiting() == 0


def test_a_redis_restored_from_an_older_copy(
    redis: RedisServer, sender: Sender, writer: Writer, tmp_path: Path
) -> None:
    send(sender)
    drain_all(writer)
    send(sender)  # waits in the copy, and is stored before the copy comes back
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
    assert sender.waiting() == 2 * len(PASSWORDS), "the copy is not what was restored"
    send(sender)
    drain_all(writer)
    sender.check_all()
    assert sender.waiting() == 0


def test_what_was_lost_with_a_restore_leaves_the_rest_as_it_is(
    redis: RedisServer, sender: Sender, writer: Writer
) -> None:
    """Acknowledged, not drained, and gone with the Redis that had it: no setting can help that."""
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
    """What a clock far ahead leaves in a stream: an entry; those after it are behind it, still."""
    number = sender.numbers.get(password, 0)
    shard, sealed = sender.seal(password, [number])
    entry_id = f"{int(time.time() * 1000) + milliseconds}-0"
    total = sender.redis.hincrby(KEYS.backlog_counters, f"in:{shard}", len(sealed))
    sender.redis.hincrby(KEYS.backlog_counters, "bytes", len(sealed))
    sender.redis.xadd(KEYS.stream(shard), {"e": sealed, "t": total}, id=entry_id)
    sender.numbers[password] = number + 1


@pytest.mark.parametrize("ahead", [5_000, 40 * 86_400_000, 5 * YEAR_MS])
def test_a_clock_that_was_ahead_and_steps_back(sender: Sender, writer: Writer, ahead: int) -> None:
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


def test_a_fresh_redis_behind_what_is_stored(
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


def test_entries_from_the_future_are_found_by_the_sweep(sender: Sender, writer: Writer) -> None:
    """Their drain died with its writer; by the clock they are not waiting yet."""
    jump(sender, b"one", YEAR_MS)
    assert not sender.redis.llen(KEYS.job_list)
    assert sweep(writer.backlog) == 1
    assert sender.backlog.state().oldest_seconds == 0


@pytest.mark.parametrize("redis", ["aof"], indirect=True)
def test_a_redis_that_loses_all_while_devices_send(
    make_stack: MakeStack, redis: RedisServer
) -> None:
    stack = make_stack({"IOT_REDIS_URL": redis.url}, writers=2)
    with Fleet(4, [stack.port]) as fleet:
        redis.kill()
        wait_until(lambda: all(503 in each.statuses for each in fleet.devices), what="503")
        for device in fleet.devices:
            device.acknowledged.clear()  # some of it went with Redis, and nothing can help that
        for path in data_files(redis):
            path.unlink()
        began = time.monotonic()
        redis.start()
        fleet.go_on()
    print(f"acknowledged again {time.monotonic() - began:.1f} s after Redis started")
    for device in fleet.devices:
        assert set(device.statuses) <= {201, 503}
    fleet.check(stack.read)
