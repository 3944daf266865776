"""A Redis that has forgotten its scripts and has no memory left is drained, and has room again."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from redis import Redis
from redis.exceptions import OutOfMemoryError, RedisError

from integration.writer.sending import Sender
from iot_stores.backlog import Backlog
from iot_stores.confirmation import Confirmation
from iot_stores.dead_letters import DeadLetters
from iot_stores.stream_entries import WaitingEntry
from iot_tools.local.redis_server import RedisServer
from iot_writer.writer import Writer
from support.draining import drain_all
from support.keys import KEYS


@pytest.fixture
def environment(environment: dict[str, str], own_redis: RedisServer) -> dict[str, str]:
    """The environment with a Redis whose memory the test may limit."""
    return environment | {"IOT_REDIS_URL": own_redis.url}


@contextmanager
def full_and_forgetful(sender: Sender) -> Iterator[None]:
    """Leave Redis no memory, and make it forget its scripts, as after a restart."""
    sender.redis.config_set("maxmemory", 1)
    sender.redis.script_flush()
    with pytest.raises(OutOfMemoryError):
        sender.redis.set("any", "value")
    yield
    sender.redis.config_set("maxmemory", 0)


@pytest.mark.parametrize("drained_before", [False, True])
def test_a_full_redis_is_drained(writer: Writer, sender: Sender, drained_before: bool) -> None:
    """The hot window lacks the segments: its keys need memory. They are read from Postgres."""
    if drained_before:
        sender.send(b"p")
        drain_all(writer)
    for _ in range(10):
        sender.send(b"p")
        sender.send(b"other")
    with full_and_forgetful(sender):
        drain_all(writer)
        assert sender.waiting() == 0
        assert sender.last_seconds(b"p", 300) == sender.texts(b"p")
    sender.check_all()


def test_a_confirmed_read_loads_its_script_again(sender: Sender) -> None:
    """Redis forgets the script again while a drain loads it."""
    sender.send(b"p")
    replicas = Confirmation(replicas=0, fsync=True)
    confirmed = Backlog(sender.redis, KEYS, shards=16, max_bytes=10_000, confirmation=replicas)
    flushing = threading.Event()

    def forget() -> None:
        with Redis.from_url(sender.settings.redis_url) as client:
            while not flushing.is_set():
                client.script_flush()

    with ThreadPoolExecutor(1) as thread:
        thread.submit(forget)
        try:
            for _ in range(200):
                (waiting,) = confirmed.read_shards([sender.shard(b"p")], max_bytes=1000)
                assert len(waiting.entries) == 1
        finally:
            flushing.set()


def test_a_dead_letter_in_a_full_redis_is_dropped(sender: Sender) -> None:
    letters = DeadLetters(sender.redis, KEYS)
    letters.add(0, WaitingEntry(b"1-0", b"sealed", 6, 0), "a reason")
    (letter,) = letters.all()
    with full_and_forgetful(sender):
        letters.drop(letter)
        assert not list(letters.all())
    assert letters.add(0, WaitingEntry(b"1-0", b"sealed", 6, 0), "again")


def test_appends_to_a_full_redis_name_the_reason(sender: Sender) -> None:
    sender.send(b"p")
    with full_and_forgetful(sender), pytest.raises(RedisError, match="maxmemory"):
        sender.send(b"p")
    sender.numbers[b"p"] = 1
    sender.send(b"p")
    assert sender.waiting() == 2
